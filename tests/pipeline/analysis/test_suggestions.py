"""`fcos suggest`: uncertainty, distance, and what it writes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image as Pillow

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.postprocess import Detections
from fcos.weights import Description, save_detector
from pipeline import formats
from pipeline.analysis import suggestion_files, suggestions
from pipeline.analysis.suggestions import Picture, choose, k_center, uncertainty
from pipeline.cli import main
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.errors import PipelineError
from tests.support.paths import PROJECT
from tests.support.projects import readme


def detections(*scores: float, labels: tuple[int, ...] = ()) -> Detections:
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]]).repeat(len(scores), 1)
    return Detections(boxes, torch.tensor(scores), torch.tensor(labels or (0,) * len(scores), dtype=torch.int64))


def test_uncertainty_is_largest_at_the_threshold_of_the_class() -> None:
    assert uncertainty(detections(), [0.4]) == 0
    assert uncertainty(detections(0.4), [0.4]) == pytest.approx(1 / 5)
    # (1 − 0.7) / 0.6 = 0.5; 0.1 / 0.4 = 0.25; and 0.1 / 0.2 = 0.5 of the class with a threshold of 0.2
    assert uncertainty(detections(0.7, 0.1, 0.1, labels=(0, 0, 1)), [0.4, 0.2]) == pytest.approx(1.25 / 5)
    assert uncertainty(detections(*[0.4] * 5, 0.99, 0.01), [0.4]) == pytest.approx(1)  # the five most uncertain


def unit(*degrees: float) -> np.ndarray:  # type: ignore[type-arg]
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_k_center_takes_the_farthest_from_all_that_are_labeled_or_chosen() -> None:
    chosen, distances = k_center(unit(5, 90, 178, 170, 265), unit(0, 10), 4)
    # 178° is 168° away; then 90° and 265° are 80° and 87° from the nearest; 170° is 8° from 178°, and 5° is 5° from 0°.
    assert chosen == [2, 4, 1, 3]
    np.testing.assert_allclose(distances, 1 - np.cos(np.radians([168, 87, 80, 8])), atol=1e-5)
    assert k_center(unit(5, 90), unit(0), 7)[0] == [1, 0]


def picture(name: str, degrees: float, *scores: float) -> Picture:
    return Picture(Path(name), 10, 10, unit(degrees)[0], detections(*scores))


def test_of_the_most_uncertain_pictures_the_most_different_ones_are_chosen() -> None:
    pictures = [picture(f"sure{number}", 90 + 20 * number, 0.99) for number in range(4)]
    pictures += [picture("a", 0, 0.4), picture("b", 3, 0.4, 0.4), picture("c", 180, 0.4)]
    found = choose(pictures, [unit(-90)[0], unit(-95)[0]], [0.4], count=2)
    # Three of seven are candidates: a, b and c.
    assert {item.picture.path.name for item in found} <= {"a", "b", "c"}
    assert "c" in [item.picture.path.name for item in found]
    assert [len(item.detections) for item in found] == [len(item.picture.detections) for item in found]
    assert choose([], [unit(0)[0]], [0.4], 3) == []


CONFIG = replace(
    PAPER, backbone="tiny", pretrained=False, batch_norm="auto", channels=8, levels=(3,), tower_depth=0, frozen_stages=0
)


@pytest.fixture
def suggest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in a project with two labeled images, for a folder with four new ones, a copy, and a bad one."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    torch.manual_seed(0)
    detector = build(CONFIG, 2)
    torch.nn.init.zeros_(detector.head.class_logits.bias)  # type: ignore[arg-type]
    description = Description(model=CONFIG, categories=((7, "cat"), (9, "dog")), input_size=InputSize((64, 64)))
    save_detector(detector, description, tmp_path / "models/detector.safetensors")
    generator, raw, photos = np.random.default_rng(0), tmp_path / "data/raw/digits", tmp_path / "photos"
    for folder in (raw, photos / "below"):
        folder.mkdir(parents=True)
    files = [raw / "1.png", raw / "2.png", *(photos / "below" / f"{number}.png" for number in range(4))]
    for number, file in enumerate(files):
        Pillow.fromarray(generator.integers(256, size=(48, 60 + number, 3), dtype=np.uint8)).save(file)
    shutil.copy(raw / "1.png", photos / "copy.png")
    (photos / "damaged.png").write_bytes(b"no image")
    split = AnnotationSet(
        (Category(7, "cat"), Category(9, "dog")),
        (Image(1, "1.png", 60, 48), Image(2, "2.png", 61, 48)),
        (Annotation(1, 1, 7, (0, 0, 9, 9), 81),),
    )
    annotations.write(split, tmp_path / "data/unified/train.json")
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(main, ["suggest", "photos", *arguments])


@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_the_list_and_a_data_set_that_conversion_reads(suggest: Callable[..., Result], to: str) -> None:
    done = suggest("--count", "3", "--to", to, "--score", "0.5")
    assert done.stderr.splitlines() == [
        "fcos: photos/damaged.png: can't be decoded as an image: unknown image format",
        "3 of 6 images, 1 in the data set already; compared with 2 labeled ones; list and boxes in suggested; "
        "`fcos app --suggested suggested` shows them",
    ]
    assert done.exit_code == 1  # because of the damaged image
    listed = done.stdout.splitlines()
    assert len(set(listed)) == 3
    assert set(listed) <= {f"photos/below/{number}.png" for number in range(4)}
    assert Path("suggested/suggested.txt").read_text() == done.stdout
    rows = [line.split(",") for line in Path("suggested/suggested.csv").read_text().splitlines()]
    assert rows[0] == ["rank", "file", "uncertainty", "distance", "detections"]
    assert [row[:2] for row in rows[1:]] == [[str(rank), file] for rank, file in enumerate(listed, 1)]
    # Read back, the boxes are those that `fcos predict` finds.
    found = CliRunner().invoke(main, ["predict", *listed, "--json", "--score", "0.5", "--plain"])
    records = map(json.loads, found.stdout.splitlines())
    expected = {Path(record["file"]).name: record["detections"] for record in records}
    (split,) = formats.read(Path("suggested/dataset"), to).splits.values()
    written = {Path(image.file).name: image.objects for image in split.images}
    assert written.keys() == expected.keys()
    assert sum(map(len, expected.values())) > 10
    for name, boxes in expected.items():
        assert [item.class_name for item in written[name]] == [box["category"] for box in boxes]
        np.testing.assert_allclose([item.box for item in written[name]], [box["bbox"] for box in boxes], atol=0.02)
    assert [len(expected[Path(file).name]) for file in listed] == [int(row[4]) for row in rows[1:]]
    shown = suggestion_files.read(Path("suggested/suggested.json"))
    assert [f"{shown.folder}/{image.file}" for image in shown.images] == [str(Path(file).absolute()) for file in listed]
    for image, row in zip(shown.images, rows[1:], strict=True):
        boxes = expected[Path(image.file).name]
        assert [item.label for item in image.detections] == [box["category"] for box in boxes]
        np.testing.assert_allclose(
            [item.score for item in image.detections], [box["score"] for box in boxes], atol=1e-3
        )
        np.testing.assert_allclose([item.bbox for item in image.detections], [box["bbox"] for box in boxes], atol=0.02)
        assert [f"{image.uncertainty:.4f}", f"{image.distance:.4f}"] == row[2:4]
    Path(listed[0]).unlink()
    with pytest.raises(PipelineError, match=rf"suggested\.json: .*{listed[0]} is no longer there"):
        suggestion_files.read(Path("suggested/suggested.json"))


def test_an_output_folder_with_content_or_nothing_to_suggest_is_one_line(suggest: Callable[..., Result]) -> None:
    Path("kept").mkdir()
    (Path("kept") / "file").touch()
    assert suggest("--out", "kept").stderr == "fcos: kept: already exists; choose another --out, or remove it\n"
    shutil.rmtree("photos/below")
    Path("photos/damaged.png").unlink()
    done = suggest()
    assert done.stderr == "fcos: photos: no image to suggest: all of them are in the data set, or can't be read\n"
    assert (done.exit_code, Path("suggested").exists()) == (1, False)
    Path("data/unified/train.json").unlink()
    assert suggest().stderr.endswith("data/unified/train.json: not there yet; run `dvc repro convert`\n")


def test_the_documented_command_works(suggest: Callable[..., Result]) -> None:
    (_, name, folder, *options), app = readme("What to label next?", "docs/evaluation.md")
    assert app == ["fcos", "app", "--suggested", "suggested"]  # tests/pipeline/integrations runs it
    assert (name, folder) == ("suggest", "photos/")
    Path("photos/damaged.png").unlink()
    done = suggest(*options)
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 4)
    assert sorted(path.name for path in Path("suggested").iterdir()) == [
        "dataset", "suggested.csv", "suggested.json", "suggested.txt",
    ]  # fmt: skip


def test_of_many_labeled_images_some_are_drawn_with_the_seed(
    suggest: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suggestions, "MAX_LABELED", 1)
    assert "compared with 1 of 2 labeled ones" in suggest().stderr
