"""The pictures and records that `fcos predict` writes."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch

from fcos.config import InputSize
from fcos.detector import build
from fcos.postprocess import Detections, Postprocess
from fcos.weights import Description
from pipeline.errors import PipelineError
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views
from pipeline.prediction import data_sets
from pipeline.prediction.detector import ConfiguredDetector
from pipeline.prediction.images import Prediction, predict_image, predict_images
from pipeline.prediction.outputs import _DATA_SETS, DEFAULT, KINDS, Outputs
from pipeline.prediction.records import to_record
from tests.support.noise import noise
from tests.support.tiny_detector import CATEGORIES, CONFIG

Write = Callable[..., tuple[list[dict[str, Any]], list[str]]]


@pytest.fixture
def model() -> SavedDetector:
    torch.manual_seed(0)
    description = Description(model=CONFIG, categories=CATEGORIES, input_size=InputSize((64, 64)))
    return SavedDetector(build(CONFIG, 2).eval(), description)


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(noise(60, 40)).save(path)
    return path


@pytest.fixture
def write(model: SavedDetector) -> Write:
    """Returns the records, and the errors of images that can't be read."""

    def run(images: list[Path], out: Path, threshold: float = 0.5) -> tuple[list[dict[str, Any]], list[str]]:
        outputs = Outputs(out, DEFAULT, CATEGORIES)
        outputs.prepare(images)
        processing = Postprocess(score_threshold=0.0) if threshold == 0 else Postprocess()
        errors, records = [], []
        for item in predict_images(ConfiguredDetector(model, [threshold] * 2, processing, Views()), images):
            if isinstance(item, PipelineError):
                errors.append(str(item))
            else:
                outputs.add(*item)
                records.append(to_record(item[1], CATEGORIES))
        outputs.finish()
        return records, errors

    return run


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_input_is_never_overwritten(write: Write, tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.jpg")
    before = path.read_bytes()
    with pytest.raises(PipelineError, match=r"a\.jpg: is an input; .* choose another --out"):
        write([path], tmp_path)
    assert path.read_bytes() == before


def test_an_image_that_cant_be_read_does_not_take_back_the_others(write: Write, tmp_path: Path) -> None:
    images = [
        write_picture(tmp_path / "a.png"),
        tmp_path / "bad.png",
        write_picture(tmp_path / "b.png"),
        tmp_path / "gone.png",
    ]
    images[1].write_bytes(b"no image")
    records, errors = write(images, tmp_path / "out")
    assert [record["file"] for record in records] == [str(images[0]), str(images[2])]
    assert errors == [
        f"{images[1]}: can't be decoded as an image: unknown image format",
        f"{images[3]}: no such file",
    ]
    assert json.loads((tmp_path / "out/detections.json").read_text()) == records
    assert names(tmp_path / "out") == ["a.jpg", "b.jpg", "detections.json"]


def test_an_earlier_index_goes_with_the_first_picture_and_the_new_one_comes_last(
    write: Write, model: SavedDetector, tmp_path: Path
) -> None:
    images = [write_picture(tmp_path / f"{name}.png") for name in "ab"]
    write(images, tmp_path / "out")
    outputs = Outputs(tmp_path / "out", DEFAULT, CATEGORIES)
    outputs.prepare(images)
    assert names(tmp_path / "out") == ["a.jpg", "b.jpg", "detections.json"]
    outputs.add(*predict_image(ConfiguredDetector(model, [0.5] * 2, Postprocess(), Views()), images[0]))
    assert names(tmp_path / "out") == ["a.jpg", "b.jpg"]
    outputs.finish()
    assert names(tmp_path / "out") == ["a.jpg", "b.jpg", "detections.json"]


def found_in(path: Path) -> tuple[torch.Tensor, Prediction]:
    objects = Detections(torch.tensor([[1.0, 2, 11, 22]]), torch.tensor([0.9]), torch.tensor([0]))
    return torch.zeros(3, 40, 60, dtype=torch.uint8), Prediction(path, 60, 40, objects)


@pytest.mark.parametrize("kind", ["csv", "crops"])
def test_the_tables_of_an_earlier_run_go_whatever_is_written(tmp_path: Path, kind: str) -> None:
    image = write_picture(tmp_path / "a.png")
    for kinds in (["json", "csv"], [kind]):
        outputs = Outputs(tmp_path / "out", kinds, CATEGORIES)
        outputs.prepare([image])
        outputs.add(*found_in(image))
        outputs.finish()
    assert names(tmp_path / "out") == ["detections.csv" if kind == "csv" else "crops"]


def test_a_data_set_that_cant_be_written_loses_nothing_else(tmp_path: Path) -> None:
    images = [write_picture(tmp_path / f"{name}.png") for name in "ab"]
    outputs = Outputs(tmp_path / "out", ["yolo", "coco", "voc", "csv", "json"], CATEGORIES, "copy")
    outputs.prepare(images)
    for image in images:
        outputs.add(*found_in(image))
    images[1].unlink()
    with pytest.raises(PipelineError, match="; ") as raised:
        outputs.finish()
    problems = re.findall(r"(\S*)/b\.png: can't be written: no such file", str(raised.value), re.I)
    assert len(problems) == 3
    assert names(tmp_path / "out") == ["detections.csv", "detections.json"]
    assert len(json.loads((tmp_path / "out/detections.json").read_text())) == 2


@pytest.mark.parametrize(
    ("name", "kinds", "message"),
    [
        ("a\x01b", ["json", "coco", "voc"], r"^--save voc: class name 'a\\x01b': a character can't be .* XML; rename"),
        (" ", ["yolo"], "^--save yolo: class name ' ': empty"),
    ],
)
def test_names_of_classes_are_checked_before_the_first_image(
    tmp_path: Path, name: str, kinds: list[str], message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        Outputs(tmp_path / "out", kinds, [(1, "cat"), (2, name)]).prepare([])
    Outputs(tmp_path / "out", ["json", "coco"], [(1, "cat"), (2, name)]).prepare([])
    assert names(tmp_path / "out") == []


def test_links_are_tried_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = write_picture(tmp_path / "a.png")
    Outputs(tmp_path / "out", ["coco"], CATEGORIES, "link").prepare([image])
    assert image.stat().st_nlink == 1

    def refuse(_path: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(target))

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    reason = r"a\.png: can't be linked into .*out: invalid cross-device link; try --images copy$"
    with pytest.raises(PipelineError, match=reason):
        Outputs(tmp_path / "out", ["coco"], CATEGORIES, "link").prepare([image])
    Outputs(tmp_path / "out", ["json"], CATEGORIES, "link").prepare([image])
    assert names(tmp_path / "out") == []


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"pictures", "json", "csv"}))
def test_a_folder_that_people_may_have_corrected_is_never_replaced(tmp_path: Path, kind: str) -> None:
    corrected = tmp_path / "out" / kind / "corrected.txt"
    corrected.parent.mkdir(parents=True)
    corrected.touch()
    with pytest.raises(PipelineError, match=f"out/{kind}: already exists; choose another --out, or remove it$"):
        Outputs(tmp_path / "out", [kind], CATEGORIES).prepare([])


def test_each_format_of_data_sets_is_a_kind() -> None:
    assert set(_DATA_SETS) == set(data_sets.WRITERS)


@pytest.mark.parametrize(("code", "remedy"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "choose another --out")])
@pytest.mark.parametrize("failing", ["b.partial.jpg", "detections"])
def test_a_full_disk_leaves_whole_files(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str, failing: str
) -> None:
    images = [write_picture(tmp_path / f"{name}.png") for name in "abc"]
    write(images, tmp_path / "whole")
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    for method in ("write_bytes", "write_text"):
        original = getattr(Path, method)

        def fail(path: Path, content: Any, *args: Any, original: Any = original, **options: Any) -> int:
            if failing in path.name:
                original(path, content[: len(content) // 2], *args, **options)
                raise OSError(code, os.strerror(code), str(path))
            return int(original(path, content, *args, **options))

        monkeypatch.setattr(Path, method, fail)
    with pytest.raises(PipelineError, match=f"can't be written: {os.strerror(code).lower()}; {remedy}$"):
        write(images, tmp_path / "out")
    left = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert left == {name: whole[name] for name in (["a.jpg"] if "b" in failing else ["a.jpg", "b.jpg", "c.jpg"])}


def test_out_that_is_a_file_or_below_one(write: Write, tmp_path: Path) -> None:
    image = write_picture(tmp_path / "a.png")
    for out, reason in ((image, "file exists"), (image / "below", "not a directory")):
        with pytest.raises(PipelineError, match=f"a.png.*: can't be written: {reason}; choose another --out"):
            write([image], out)


def test_records_have_pixel_boxes_and_the_data_sets_category_ids(write: Write, tmp_path: Path) -> None:
    (record,), _ = write([write_picture(tmp_path / "a.png")], tmp_path / "out", 0.0)
    assert (record["width"], record["height"]) == (60, 40)
    assert record["detections"]
    assert {detection["category_id"] for detection in record["detections"]} <= {7, 3}
    for detection in record["detections"]:
        x, y, width, height = detection["bbox"]
        assert min(x, y) >= 0
        assert x + width <= 60.02
        assert y + height <= 40.02
    assert (tmp_path / "out/a.jpg").is_file()
