"""The file of corrections: its records, its errors, and what conversion makes of it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline import params
from pipeline.conversion import convert
from pipeline.conversion.corrections import Correction, Labelled, make, read, write
from pipeline.data.annotations import Annotation
from pipeline.data.annotations import read as read_annotations
from pipeline.errors import PipelineError
from pipeline.params import ConvertParams
from tests.support.projects import PROJECT

A, B, D = (f"JPEGImages/{stem}.png" for stem in "abd")
DOG, CAT = Labelled("dog", (0.0, 0.0, 40.0, 30.0)), Labelled("cat", (4.0, 5.0, 6.0, 7.0))  # in a.png of `raw`
EXCLUDE_B = Correction(file_name=B, action="exclude")
REMOVE_DOG = Correction(file_name=A, action="remove", category="dog", bbox=DOG.bbox)
RELABEL_CAT = Correction(file_name=A, action="relabel", category="cat", bbox=CAT.bbox, new_category="dog")
MOVE_DOG = Correction(
    file_name=A, action="move", category="dog", bbox=DOG.bbox, new_category="cat", new_bbox=(1.25, 2.0, 30.0, 20.5)
)
ADD_TO_B = Correction(file_name=B, action="add", category="cat", bbox=(1.0, 2.0, 3.0, 4.5))


def options(**values: Any) -> ConvertParams:
    return replace(params.load(PROJECT / "params.yaml").convert, **values)


def corrected(raw: Path, *corrections: Correction, **values: Any) -> tuple[list[Annotation], dict[str, Any]]:
    """The annotations of train after conversion with these corrections, and the report."""
    file, unified = raw.parent / "mine.json", raw.parent / "unified"
    write(corrections, file)
    report = convert(raw, unified, options(**values), corrections=file)
    return list(read_annotations(unified / "train.json").annotations), report


def test_the_file_has_a_record_a_line_sorted_by_image(tmp_path: Path) -> None:
    records = [ADD_TO_B, RELABEL_CAT, MOVE_DOG, EXCLUDE_B]
    write(records, tmp_path / "c.json")
    assert (tmp_path / "c.json").read_text() == (
        "[\n"
        f' {{"file_name": "{A}", "action": "move", "category": "dog", "bbox": [0.0, 0.0, 40.0, 30.0], '
        '"new_category": "cat", "new_bbox": [1.25, 2.0, 30.0, 20.5]},\n'
        f' {{"file_name": "{A}", "action": "relabel", "category": "cat", "bbox": [4.0, 5.0, 6.0, 7.0], '
        '"new_category": "dog"},\n'
        f' {{"file_name": "{B}", "action": "exclude"}},\n'
        f' {{"file_name": "{B}", "action": "add", "category": "cat", "bbox": [1.0, 2.0, 3.0, 4.5]}}\n'
        "]\n"
    )
    assert read(tmp_path / "c.json") == (MOVE_DOG, RELABEL_CAT, EXCLUDE_B, ADD_TO_B)
    write(reversed(records), tmp_path / "d.json")
    assert (tmp_path / "d.json").read_bytes() == (tmp_path / "c.json").read_bytes()
    assert read(tmp_path / "missing.json") == ()
    write([], tmp_path / "empty.json")
    assert (tmp_path / "empty.json").read_text() == "[]\n"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("[", "not JSON: "),
        ("", "not JSON: the file is empty"),
        ("{}", "it is {}, but should be a valid array"),
        ('[{"file_name": "a", "action": "exclude"}, {"action": "exclude"}]', "record 1: file_name is missing"),
        ('[{"file_name": "a", "action": "erase"}]',
         "record 0: action is 'erase', but should be 'exclude', 'remove', 'relabel', 'move' or 'add'"),
        ('[{"file_name": "a", "action": "exclude", "why": "blurred"}]',
         "record 0: why is unknown; known ones: file_name, action, category, bbox, new_category, new_bbox; see"),
        ('[{"file_name": "a", "action": "remove", "bbox": [1, 2, 3, 4]}]',
         "record 0 (remove in a): category is missing"),
        ('[{"file_name": "a", "action": "exclude", "category": "cat"}]',
         "record 0 (exclude in a): category has no meaning for exclude"),
        ('[{"file_name": "a", "action": "add", "category": "cat", "bbox": [1, 2, 0, 4]}]',
         "record 0 (add in a): bbox [1.0, 2.0, 0.0, 4.0] has no positive width and height"),
        ('[{"file_name": "a", "action": "add", "category": "cat", "bbox": [1, 2, "3", 4]}]',
         "record 0: bbox: value 2 is '3', but should be a valid number"),
        ('[{"file_name": "a", "action": "add", "category": "cat", "bbox": [NaN, 2, 3, 4]}]',
         "record 0: bbox: value 0 is nan, but should be a finite number"),
    ],
)  # fmt: skip
def test_an_invalid_file_gives_one_line(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "c.json"
    file.write_text(content)
    with pytest.raises(PipelineError) as caught:
        read(file)
    assert str(caught.value).startswith(f"{file}: {problem}")
    assert "\n" not in str(caught.value)


def test_the_file_in_the_docs_is_valid(tmp_path: Path) -> None:
    section = (PROJECT / "docs/datasets.md").read_text().split("\n## Corrections\n")[1]
    (tmp_path / "c.json").write_text(section.split("```json\n")[1].split("```")[0])
    assert {record.action for record in read(tmp_path / "c.json")} == {"exclude", "remove", "relabel", "move", "add"}


def test_the_correction_that_makes_one_annotation_another() -> None:
    moved = Labelled("cat", (1.25, 2.0, 30.0, 20.5))
    assert make(A, DOG, moved) == MOVE_DOG
    assert make(A, CAT, replace(CAT, category="dog")) == RELABEL_CAT
    assert make(A, DOG, None) == REMOVE_DOG
    assert make(B, None, Labelled("cat", (1.0, 2.0, 3.0, 4.5))) == ADD_TO_B
    assert make(A, DOG, DOG) is None
    for record in (MOVE_DOG, RELABEL_CAT, REMOVE_DOG, ADD_TO_B):
        assert make(record.file_name, record.before, record.after) == record
    assert (MOVE_DOG.before, MOVE_DOG.after, EXCLUDE_B.before, ADD_TO_B.before) == (DOG, moved, None, None)


def test_each_kind_of_correction(raw: Path) -> None:
    """`raw` has, in train, a dog (category 2) and a difficult cat (1) in a, nothing in b, and a cat in c."""
    annotations, report = corrected(raw, RELABEL_CAT, MOVE_DOG, ADD_TO_B)
    assert annotations == [
        Annotation(1, 1, 1, (1.25, 2.0, 30.0, 20.5), 615.0),
        Annotation(2, 1, 2, (4.0, 5.0, 6.0, 7.0), 42.0, difficult=1),
        Annotation(4, 2, 1, (1.0, 2.0, 3.0, 4.5), 13.5),
        Annotation(3, 3, 1, (2.0, 2.0, 7.0, 7.0), 49.0),
    ]
    assert report["corrections"] == {
        "file": str(raw.parent / "mine.json"),
        "applied": {"add": 1, "move": 1, "relabel": 1},
        "already_in_data_set": 0,
        "of_excluded_images": 0,
        "of_unused_images": 0,
    }
    assert (report["splits"]["train"]["classes"], report["entries"]) == ({"cat": 3, "dog": 1}, [])
    annotations, report = corrected(raw, REMOVE_DOG, EXCLUDE_B, ADD_TO_B)
    assert [item.id for item in annotations] == [2, 3]
    train = read_annotations(raw.parent / "unified/train.json")
    assert [image.file_name for image in train.images] == [A, "JPEGImages/c.png"]
    assert report["corrections"]["applied"] == {"exclude": 1, "remove": 1}
    assert report["corrections"]["of_excluded_images"] == 1  # the box added to b


def test_conversion_with_corrections_is_deterministic(raw: Path) -> None:
    contents = []
    for _ in range(2):
        corrected(raw, RELABEL_CAT, MOVE_DOG, ADD_TO_B)
        contents.append({file.name: file.read_bytes() for file in (raw.parent / "unified").iterdir()})
    assert contents[0] == contents[1]
    assert corrected(raw)[1]["corrections"]["applied"] == {}
    report = convert(raw, raw.parent / "unified", options(), corrections=raw.parent / "none.json")
    assert report["corrections"] is None


def test_a_source_that_has_been_corrected_already(raw: Path, voc_xml: Callable[..., Path]) -> None:
    """The same corrections applied to their own result change nothing."""
    records = (RELABEL_CAT, replace(MOVE_DOG, new_category=None), replace(ADD_TO_B, file_name=A))
    annotations, _ = corrected(raw, *records)
    boxes = [(x + 1, y + 1, x + w, y + h) for x, y, w, h in (item.bbox for item in annotations[:3])]
    names = {1: "cat", 2: "dog"}
    objects = [
        (names[item.category_id], *box, item.difficult) for item, box in zip(annotations[:3], boxes, strict=True)
    ]
    voc_xml(raw / "Annotations/a.xml", objects)
    again, report = corrected(raw, *records)
    assert [(item.category_id, item.bbox, item.difficult) for item in again] == [
        (item.category_id, item.bbox, item.difficult) for item in annotations
    ]
    assert (report["corrections"]["applied"], report["corrections"]["already_in_data_set"]) == ({}, 3)


def test_of_equal_boxes_each_correction_takes_one(raw: Path, voc_xml: Callable[..., Path]) -> None:
    voc_xml(raw / "Annotations/a.xml", [("cat", 5, 6, 10, 12)] * 3)
    remove = Correction(file_name=A, action="remove", category="cat", bbox=CAT.bbox)
    annotations, _ = corrected(raw, RELABEL_CAT, remove)
    assert [(item.id, item.category_id) for item in annotations[:2]] == [(1, 2), (2, 1)]
    with pytest.raises(PipelineError, match="the image has no such box"):
        corrected(raw, *[remove] * 4)


@pytest.mark.parametrize(
    ("correction", "problem"),
    [
        (replace(EXCLUDE_B, file_name="JPEGImages/z.png"), "JPEGImages/z.png: exclude: the data set has no such image"),
        (replace(REMOVE_DOG, bbox=(0.0, 0.0, 40.0, 29.0)),
         f"{A}: remove dog [0.0, 0.0, 40.0, 29.0]: the image has no such box"),
        (replace(RELABEL_CAT, category="bird"),
         f"{A}: relabel bird [4.0, 5.0, 6.0, 7.0] → dog: the image has no such box"),
    ],
)  # fmt: skip
def test_a_correction_whose_image_or_box_is_gone_is_named(raw: Path, correction: Correction, problem: str) -> None:
    with pytest.raises(PipelineError) as caught:
        corrected(raw, correction)
    assert str(caught.value) == (
        f"{raw.parent}/mine.json: {problem}; remove the record, or run with "
        "-S convert.checks.stale_correction=skip (not applied), or for all checks -S convert.issues=repair"
    )
    before = [(item.category_id, item.bbox) for item in corrected(raw)[0]]
    annotations, report = corrected(raw, correction, ADD_TO_B, issues="repair")
    assert [(item.category_id, item.bbox) for item in annotations if item.image_id != 2] == before
    assert report["counts"] == {"stale_correction": 1}
    (entry,) = report["entries"]
    assert f"{entry['source']}: {entry['message']}" == f"{raw.parent}/mine.json: {problem}"
    assert entry["outcome"] == "not applied"


def test_images_that_no_split_uses_are_counted(raw: Path) -> None:
    (raw / "ImageSets/Main/train.txt").write_text("a\nc\n")
    (raw / "ImageSets/Main/other.txt").write_text("b\n")
    assert corrected(raw, ADD_TO_B)[1]["corrections"]["of_unused_images"] == 1


def test_new_boxes_and_classes_are_checked_as_all_others(raw: Path) -> None:
    outside = replace(ADD_TO_B, bbox=(35.0, 2.0, 9.0, 9.0))
    with pytest.raises(PipelineError, match=r"b\.png: add cat .*: box .* extends 4 px beyond the 40×30 image"):
        corrected(raw, outside)
    assert corrected(raw, outside, issues="repair")[0][2].bbox == (35.0, 2.0, 5.0, 9.0)
    with pytest.raises(PipelineError, match=r"→ dgo: class 'dgo' is not in .*; did you mean 'dog'\?"):
        corrected(raw, replace(RELABEL_CAT, new_category="dgo"))


def test_the_split_does_not_depend_on_corrections(raw: Path) -> None:
    """Even where the seed is chosen by the classes of the objects."""
    for name in ("train", "val"):
        (raw / f"ImageSets/Main/{name}.txt").unlink()
    values = {"split_seed": "auto", "val_fraction": 0.5}
    corrected(raw, **values)
    images = [read_annotations(raw.parent / f"unified/{split}.json").images for split in ("train", "val")]
    change = make(D, Labelled("dog", (10.0, 10.0, 10.0, 10.0)), Labelled("cat", (10.0, 10.0, 10.0, 10.0)))
    assert change is not None
    _, report = corrected(raw, REMOVE_DOG, change, **values)
    assert report["corrections"]["applied"] == {"relabel": 1, "remove": 1}
    assert [read_annotations(raw.parent / f"unified/{split}.json").images for split in ("train", "val")] == images


def test_the_stage_applies_the_file_of_its_data_set(home: Path, raw: Path, setting: Any, stage: Any) -> None:
    setting(**{"dataset": "custom", "download.path": str(raw)})
    assert stage("download").returncode == 0
    write([ADD_TO_B, REMOVE_DOG], home / "data/corrections/custom.json")
    write([EXCLUDE_B], home / "data/corrections/other.json")
    done = stage("convert")
    assert (done.returncode, done.stderr) == (0, "")
    assert "train 3 images, 3 objects" in done.stdout
    assert "; 2 corrections applied (1 add, 1 remove)" in done.stdout
    report = json.loads((home / "data/unified/report.json").read_text())
    assert report["corrections"]["applied"] == {"add": 1, "remove": 1}
    assert report["corrections"]["file"] == "data/corrections/custom.json"
    (home / "data/corrections/custom.json").write_text("[{}]")
    assert stage("convert").stderr == (
        f"convert: {home}/data/corrections/custom.json: record 0: file_name is missing; see docs/datasets.md\n"
    )
