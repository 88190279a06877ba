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


def make_digits(home: Path, setting: Callable[..., None], folder: str, **values: Any) -> Path:
    setting(**{f"download.digits.{key}": value for key, value in values.items()})
    digits.make(params.load(), home / folder)
    return home / folder


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_follow_the_coco_layout(home: Path, setting: Callable[..., None]) -> None:
    folder = make_digits(home, setting, "out", train=6, val=3, size=128)
    assert len(read_files(folder)) == 6 + 3 + 2
    content = read_json(folder / "annotations" / "val.json")
    assert [category["name"] for category in content["categories"]] == list("0123456789")
    assert content["images"][2] == {"id": 3, "file_name": "000003.jpg", "width": 128, "height": 128}
    assert (folder / "images" / "val" / "000003.jpg").is_file()


def test_same_bytes_for_the_same_seed(home: Path, setting: Callable[..., None]) -> None:
    first = read_files(make_digits(home, setting, "first", train=5, val=2, size=96))
    assert read_files(make_digits(home, setting, "second", train=5, val=2, size=96)) == first
    larger = read_files(make_digits(home, setting, "larger", train=7, val=2, size=96))
    assert {name: larger[name] for name in first if name.endswith(".jpg")} == {
        name: content for name, content in first.items() if name.endswith(".jpg")
    }
    other_seed = read_files(make_digits(home, setting, "other", train=5, val=2, size=96, seed=1))
    assert all(other_seed[name] != content for name, content in first.items())


def test_splits_share_no_digit() -> None:
    train, val = (digits.load_material(split, 3) for split in digits.SPLITS)
    assert set(train.digits).isdisjoint(val.digits)
    assert len(train.digits) + len(val.digits) == 1797
    assert set(train.labels[train.digits]) == set(val.labels[val.digits]) == set(range(10))


def test_splits_share_no_part_of_a_photograph() -> None:
    train, val = (digits.load_material(split, 0).photographs for split in digits.SPLITS)
    for name, train_photograph, val_photograph in zip(("china.jpg", "flower.jpg"), train, val, strict=True):
        photograph = load_sample_image(name)
        assert train_photograph.width + val_photograph.width < photograph.shape[1]
        assert np.array_equal(np.asarray(train_photograph), photograph[:, : train_photograph.width])
        assert np.array_equal(np.asarray(val_photograph), photograph[:, -val_photograph.width :])


@pytest.fixture(scope="module")
def scenes() -> list[tuple[Any, list[tuple[int, digits.Box]]]]:
    source = digits.load_material("train", 0)
    return [digits.scene(source, np.random.default_rng((5, index)), 256) for index in range(150)]


def test_scenes_are_varied(scenes: list[Any]) -> None:
    counts = [len(objects) for _, objects in scenes]
    assert 1 <= counts.count(0) <= 20
    assert max(counts) >= 7
    heights = sorted(box[3] for _, objects in scenes for _, box in objects)
    assert heights[0] >= 14  # 22, minus the part that another digit covers
    assert heights[-1] <= 112
    assert np.quantile(heights, 0.75) > 2 * np.quantile(heights, 0.25)
    assert {label for _, objects in scenes for label, _ in objects} == set(range(10))


def test_boxes_overlap_only_slightly(scenes: list[Any]) -> None:
    overlapping = 0
    for _, objects in scenes:
        boxes = [box for _, box in objects]
        for index, (x, y, w, h) in enumerate(boxes):
            assert min(x, y) >= 0
            assert max(x + w, y + h) <= 256
            for other_x, other_y, other_w, other_h in boxes[:index]:
                overlap_width, overlap_height = (
                    min(x + w, other_x + other_w) - max(x, other_x),
                    min(y + h, other_y + other_h) - max(y, other_y),
                )
                if overlap_width > 0 and overlap_height > 0:
                    overlapping += 1
                    assert (
                        overlap_width * overlap_height / (w * h + other_w * other_h - overlap_width * overlap_height)
                        <= 0.2
                    )
    assert overlapping > 5


def test_boxes_fit_the_ink_and_the_ink_has_contrast() -> None:
    """On a plain canvas, the box of the ink is the bounding box of all visibly changed pixels."""
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
    """A box leaves out the ink that another digit covers: the lower box ends where the upper digit begins."""
    owner = np.zeros((20, 20), np.uint8)
    canvas = np.full((20, 20, 3), 100, np.float32)
    rng = np.random.default_rng(0)
    bar = np.ones((4, 10), np.float32)
    colors = [digits.paint(canvas, owner, bar, (2, 5), [], rng)]
    digits.paint(canvas, owner, bar, (9, 5), colors, rng)
    assert np.flatnonzero((owner == 1).any(0)).tolist() == list(range(2, 9))
    assert np.flatnonzero((owner == 2).any(0)).tolist() == list(range(9, 19))


def test_importing_the_sources_does_not_import_scikit_learn() -> None:
    code = "import sys, pipeline.datasets.sources; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=True)
