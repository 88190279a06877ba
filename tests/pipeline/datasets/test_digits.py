import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from pipeline import params
from pipeline.datasets import digits
from pipeline.files import read_json
from tests.support.paths import PROJECT


def made(home: Path, setting: Callable[..., None], into: str, **values: Any) -> Path:
    setting(**{f"download.digits.{key}": value for key, value in values.items()})
    digits.make(params.load(), home / into)
    return home / into


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_published_as_coco_is(home: Path, setting: Callable[..., None]) -> None:
    folder = made(home, setting, "out", train=6, val=3, size=128)
    assert len(contents(folder)) == 6 + 3 + 2
    content = read_json(folder / "annotations" / "val.json")
    assert [category["name"] for category in content["categories"]] == list("0123456789")
    assert content["images"][2] == {"id": 3, "file_name": "000003.jpg", "width": 128, "height": 128}
    assert (folder / "images" / "val" / "000003.jpg").is_file()


def test_same_bytes_for_the_same_seed(home: Path, setting: Callable[..., None]) -> None:
    one = contents(made(home, setting, "one", train=5, val=2, size=96))
    assert contents(made(home, setting, "two", train=5, val=2, size=96)) == one
    more = contents(made(home, setting, "more", train=7, val=2, size=96))
    assert {name: more[name] for name in one if name.endswith(".jpg")} == {
        name: content for name, content in one.items() if name.endswith(".jpg")
    }
    other = contents(made(home, setting, "other", train=5, val=2, size=96, seed=1))
    assert all(other[name] != content for name, content in one.items())


def test_splits_share_no_digit() -> None:
    train, val = (digits.load_material(split, 3) for split in digits.SPLITS)
    assert set(train.digits).isdisjoint(val.digits)
    assert len(train.digits) + len(val.digits) == 1797
    assert set(train.labels[train.digits]) == set(val.labels[val.digits]) == set(range(10))


def test_splits_share_no_piece_of_photograph() -> None:
    train, val = (digits.load_material(split, 0).photographs for split in digits.SPLITS)
    for name, learned, judged in zip(("china.jpg", "flower.jpg"), train, val, strict=True):
        whole = load_sample_image(name)
        assert learned.width + judged.width < whole.shape[1]
        assert np.array_equal(np.asarray(learned), whole[:, : learned.width])
        assert np.array_equal(np.asarray(judged), whole[:, -judged.width :])


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Any, list[tuple[int, digits.Box]]]]:
    source = digits.load_material("train", 0)
    return [digits.scene(source, np.random.default_rng((5, index)), 256) for index in range(150)]


def test_scenes_are_varied(scenes: list[Any]) -> None:
    counts = [len(objects) for _, objects in scenes]
    assert 1 <= counts.count(0) <= 20
    assert max(counts) >= 7
    heights = sorted(box[3] for _, objects in scenes for _, box in objects)
    assert heights[0] >= 14  # 22, less what another digit covers
    assert heights[-1] <= 112
    assert np.quantile(heights, 0.75) > 2 * np.quantile(heights, 0.25)
    assert {label for _, objects in scenes for label, _ in objects} == set(range(10))


def test_boxes_overlap_a_little_at_most(scenes: list[Any]) -> None:
    overlapping = 0
    for _, objects in scenes:
        boxes = [box for _, box in objects]
        for index, (x, y, w, h) in enumerate(boxes):
            assert min(x, y) >= 0
            assert max(x + w, y + h) <= 256
            for u, v, other_w, other_h in boxes[:index]:
                wide, high = min(x + w, u + other_w) - max(x, u), min(y + h, v + other_h) - max(y, v)
                if wide > 0 and high > 0:
                    overlapping += 1
                    assert wide * high / (w * h + other_w * other_h - wide * high) <= 0.2
    assert overlapping > 5


def test_box_fits_the_ink_and_the_ink_stands_out() -> None:
    """On a plain canvas everything that changed visibly lies in the box and touches its four sides."""
    source = digits.load_material("val", 0)
    for index in range(60):
        rng = np.random.default_rng(index)
        ink = digits.glyph(source.images[source.digits[index]], rng, int(rng.integers(10, 110)))
        gray = float(rng.uniform(0, 255))
        canvas = np.full((128, 128, 3), gray, np.float32)
        owner = np.zeros((128, 128), np.uint8)
        color = digits.paint(canvas, owner, ink, (7, 11), [], rng)
        changed = np.abs(canvas - gray).max(2) >= 0.5 * np.abs(color - gray).max()
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert (rows[0], columns[0]) == (11, 7)
        assert (rows[-1], columns[-1]) == (10 + ink.shape[0], 6 + ink.shape[1])
        assert np.array_equal(owner == 1, changed)
        luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
        assert abs(luma - gray) >= 85


def test_covered_ink_shrinks_the_box() -> None:
    """What lies under another digit is not seen: the lower box ends where the upper digit begins."""
    owner = np.zeros((20, 20), np.uint8)
    canvas = np.full((20, 20, 3), 100, np.float32)
    rng = np.random.default_rng(0)
    bar = np.ones((4, 10), np.float32)
    colors = [digits.paint(canvas, owner, bar, (2, 5), [], rng)]
    digits.paint(canvas, owner, bar, (9, 5), colors, rng)
    assert np.flatnonzero((owner == 1).any(0)).tolist() == list(range(2, 9))
    assert np.flatnonzero((owner == 2).any(0)).tolist() == list(range(9, 19))


def test_other_data_sets_do_not_wait_for_scikit_learn() -> None:
    code = "import sys, pipeline.datasets.sources; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
