"""Results and ground truth files: valid and invalid content, and numbers that survive the file."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.evaluation import coco, report
from pipeline.evaluation import ground_truth as truth

TRUTH = AnnotationSet((Category(7, "cat"),), (Image(1, "a.jpg", 100, 100),), ())
GOOD = {"image_id": 1, "category_id": 7, "bbox": [1, 2.5, 3, 4], "score": 0.5}


def saved(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def refusal(read: Callable[[], Any]) -> str:
    with pytest.raises(PipelineError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_integers_float_ids_and_other_keys_are_accepted(tmp_path: Path) -> None:
    path = saved(tmp_path / "r.json", [GOOD | {"image_id": 1.0, "segmentation": [], "area": 12}])
    assert results.read(path, TRUTH) == (Detection(1, 7, (1, 2.5, 3, 4), 0.5),)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"image_id": 9}, "record 1: image 9 is not in the ground truth; give the ground truth of the images"),
        ({"category_id": 9}, "record 1: category 9 is not in the ground truth; give the ground truth of the images"),
        ({"image_id": True}, "record 1: image_id: true is not a number"),
        ({"score": "9" * 200}, f"record 1: score is '{'9' * 78}…, but should be a valid number"),
        ({"bbox": [1, 2, 3]}, "record 1: bbox: value 3 is missing"),
        ({"bbox": [1, 2, -3, 4]}, "record 1: bbox: value 2 is -3, but should be greater than or equal to 0"),
        ({"bbox": [1, float("nan"), 3, 4]}, "record 1: bbox: value 1 is nan, but should be a finite number"),
        ({"score": float("inf")}, "record 1: score is inf, but should be a finite number"),
        (
            {"bbox": [1, 2, 3, 1e300]},
            "record 1: bbox: value 3 is 1e+300, but should be less than or equal to 1000000000",
        ),
        (
            {"category_id": 2**63},
            "record 1: category_id is 9223372036854775808, but should be less than 9223372036854775808",
        ),
        ({"score": "0.5"}, "record 1: score is '0.5', but should be a valid number"),
        ({"image_id": 1.5}, "record 1: image_id is 1.5, but should be a valid integer"),
    ],
)
def test_an_invalid_record_is_an_error(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    path = saved(tmp_path / "r.json", [GOOD, GOOD | change])
    assert refusal(lambda: results.read(path, TRUTH)).startswith(f"{path}: {problem}")


@pytest.mark.parametrize("key", list(GOOD))
def test_a_missing_key_is_an_error(tmp_path: Path, key: str) -> None:
    path = saved(tmp_path / "r.json", [{name: value for name, value in GOOD.items() if name != key}])
    assert f"{path}: record 0: {key} is missing; it must be a list of" in refusal(lambda: results.read(path, TRUTH))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1}', "it is {'a': 1}, but should be a valid array"),
        ("[1,", "not JSON: EOF while parsing"),
        ("\xff", "not JSON"),
    ],
)
def test_another_file_is_an_error(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(text.encode("latin-1"))
    assert refusal(lambda: results.read(path, TRUTH)).startswith(f"{path}: {problem}")


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    assert refusal(lambda: results.read(tmp_path / "no.json", TRUTH)).endswith(
        "cannot be read: no such file or directory"
    )
    assert refusal(lambda: truth.read(tmp_path)).endswith("cannot be read: is a directory")


@settings(deadline=None)  # files are flushed to disk
@given(st.lists(st.tuples(st.lists(st.floats(0, 1e4), min_size=4, max_size=4), st.floats(0, 1))))
def test_every_number_survives_the_file(tmp_path_factory: pytest.TempPathFactory, records: list[Any]) -> None:
    path = tmp_path_factory.mktemp("results") / "r.json"
    detections = tuple(Detection(1, 7, (box[0], box[1], box[2], box[3]), score) for box, score in records)
    results.write(detections, path)
    read = results.read(path, TRUTH)
    assert read == detections
    written = path.read_bytes()
    results.write(read, path)
    assert path.read_bytes() == written


def test_writing_and_reading_changes_no_metric(coco_fixture: Path, tmp_path: Path) -> None:
    """Detections as of a float32 network: shifted by thirds of a pixel, with scores that agree in six digits."""
    objects = truth.read(coco_fixture / "gt.json")
    made = tuple(
        Detection(d.image_id, d.category_id, (d.bbox[0] + 1 / 3, *d.bbox[1:]), float(np.float32(0.5 + n * 1e-7)))
        for n, d in enumerate(results.read(coco_fixture / "dets.json", objects))
    )
    results.write(made, tmp_path / "r.json")
    assert coco.evaluate(objects, results.read(tmp_path / "r.json", objects)) == coco.evaluate(objects, made)


@pytest.mark.parametrize("wrong", [{"score": math.nan}, {"bbox": (1.0, math.inf, 3.0, 4.0)}])
def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path, wrong: dict[str, Any]) -> None:
    detection = replace(Detection(1, 7, (1.0, 2.0, 3.0, 4.0), 0.5), **wrong)
    with pytest.raises(ValueError, match=r"Detection\(image_id=1, .* a number is not finite"):
        results.write([Detection(1, 7, (1.0, 2.0, 3.0, 4.0), 0.5), detection], tmp_path / "r.json")
    assert not (tmp_path / "r.json").exists()


def test_no_detections(tmp_path: Path) -> None:
    results.write([], tmp_path / "r.json")
    assert (tmp_path / "r.json").read_text() == "[]\n"
    assert results.read(tmp_path / "r.json", TRUTH) == ()


PLAIN = {
    "images": [{"id": 3}],
    "categories": [{"id": 2, "name": "cat", "supercategory": "animal"}],
    "annotations": [{"image_id": 3, "category_id": 2, "bbox": [-5, 0, 10, 4.5]}],
    "licenses": [{"id": 1}],
}


def test_minimal_ground_truth(tmp_path: Path) -> None:
    """Without area, iscrowd, annotation id, file name and size; a box reaches out of its image."""
    objects = truth.read(saved(tmp_path / "gt.json", PLAIN))
    [annotation] = objects.annotations
    assert (annotation.id, annotation.area, annotation.iscrowd, annotation.difficult) == (1, 45, 0, 0)
    assert objects.images[0].file_name == "3"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_files_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    plain, marked = saved(tmp_path / "gt.json", PLAIN), tmp_path / "marked.json"
    marked.write_text(json.dumps(PLAIN), encoding=encoding)
    assert truth.read(marked) == truth.read(plain)
    marked.write_text(json.dumps([GOOD]), encoding=encoding)
    assert results.read(marked, TRUTH) == results.read(saved(tmp_path / "dets.json", [GOOD]), TRUTH)


def test_given_values_of_ground_truth_are_kept(tmp_path: Path) -> None:
    more = {"area": 7, "iscrowd": 1, "difficult": True, "segmentation": {"counts": [1, 2], "size": [4, 4]}, "id": 0}
    content = PLAIN | {"annotations": [PLAIN["annotations"][0] | more]}  # type: ignore[operator,index]
    [annotation] = truth.read(saved(tmp_path / "gt.json", content)).annotations
    assert (annotation.id, annotation.area, annotation.iscrowd, annotation.difficult) == (1, 7, 1, 1)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"images": []}, "there is no image"),
        ({"categories": []}, "there is no category"),
        ({"images": [{"id": 3}, {"id": 3}]}, "image id 3 is used 2 times"),
        ({"images": [{"id": True}]}, "images: record 0: id: true is not a number"),
        ({"categories": [{"id": False, "name": "x"}]}, "categories: record 0: id: false is not a number"),
        ({"images": [{"id": "a"}]}, "images: record 0: id is 'a', but should be a valid integer"),
        ({"categories": [{"id": 2, "name": "x"}, {"id": 4, "name": "x"}]}, "category name 'x' is used 2 times"),
        ({"annotations": [{"image_id": 3, "category_id": 2}]}, "annotations: record 0: bbox is missing"),
        (
            {"annotations": [{"image_id": 4, "category_id": 2, "bbox": [0, 0, 1, 1]}]},
            "annotations: record 0: image 4 does",
        ),
        (
            {"annotations": [{"image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1]}]},
            "annotations: record 0: category 1",
        ),
    ],
)
def test_invalid_ground_truth_is_an_error(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    path = saved(tmp_path / "gt.json", PLAIN | change)
    assert refusal(lambda: truth.read(path)).startswith(f"{path}: {problem}")


def test_results_in_place_of_ground_truth_are_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "r.json", [GOOD])
    assert "ground truth must be COCO JSON" in refusal(lambda: truth.read(path))


# JSON of numbers, texts and containers that tools may leave in a file, and that people type.
ODD = st.sampled_from(
    ["1e308", "-1e308", "1e999", "NaN", "-0", "9223372036854775808", "1" * 30, "null", '""', "[]", "{}", "true", "-1",
     "0", "1.5", "1e-320", '"\\ud800"']
)  # fmt: skip
TRUTH_FILE = {
    "images": [{"id": 1, "file_name": "a.jpg", "width": 100, "height": 100}],
    "categories": [{"id": 7, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0}],
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_an_edited_or_damaged_file_is_evaluated_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("files")
    contents = {"r.json": json.dumps([GOOD, GOOD]).encode(), "gt.json": json.dumps(TRUTH_FILE).encode()}
    name = data.draw(st.sampled_from(sorted(contents)))
    content = bytearray(contents[name])
    if data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= 1 << data.draw(st.integers(0, 7))
    else:
        value = data.draw(st.sampled_from(list(re.finditer(rb'-?[0-9.]+|"[^"]*"', bytes(content)))))
        content[value.start() : value.end()] = data.draw(ODD).encode()
    contents[name] = bytes(content)
    for file, text in contents.items():
        (folder / file).write_bytes(text)
    try:
        objects = truth.read(folder / "gt.json")
        scores = report.evaluate(objects, results.read(folder / "r.json", objects))
    except PipelineError as error:
        message = str(error)
    else:
        message = json.dumps(scores.metrics, allow_nan=False)
    assert message
    assert "\n" not in message
