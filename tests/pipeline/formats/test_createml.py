"""Create ML: x and y are the center of the box."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import createml, recognize

Write = Callable[..., Path]
CAT = {"label": "cat", "coordinates": {"x": 6, "y": 12.5, "width": 10, "height": 20}}


def save(folder: Path, *entries: Any) -> None:
    (folder / "_annotations.createml.json").write_text(json.dumps(entries))


@pytest.mark.parametrize("keys", [("image", "annotations"), ("imagefilename", "annotation")])
def test_boxes(tmp_path: Path, picture: Write, keys: tuple[str, str]) -> None:
    for split in ("train", "valid"):
        for name in ("a.png", "b.png"):
            picture(tmp_path / split / name)
        entries = [dict(zip(keys, ("a.png", [CAT, CAT]), strict=True)), dict(zip(keys, ("b.png", []), strict=True))]
        save(tmp_path / split, *entries)
    assert recognize(tmp_path) == "createml"
    dataset = createml.read(tmp_path)
    assert sorted(dataset.splits) == ["train", "valid"]
    first, empty = dataset.splits["valid"].images
    assert (first.file, empty.file, empty.objects) == ("valid/a.png", "valid/b.png", ())
    assert [(item.class_name, item.box) for item in first.objects] == [("cat", (1, 2.5, 10, 20))] * 2
    assert first.objects[1].source == "valid/_annotations.createml.json: image 1: object 2"


def test_invalid_records(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    incomplete = {"label": "cat", "coordinates": {"x": 6, "y": 12.5, "width": "wide"}}
    save(tmp_path, {"image": "a.png", "annotations": [incomplete, CAT | {"label": None}, 7]}, {"image": "lost.png"}, 3)
    image, without, number = createml.read(tmp_path).splits["all"].images
    assert [item.issue.message for item in image.objects if item.issue] == [
        "x, y, width, height are [6, 12.5, 'wide', None], not four numbers",
        "needs a class, has None",
        "x, y, width, height are [None, None, None, None], not four numbers",
    ]
    assert [record.issue.message for record in (without, number) if record.issue] == [
        "needs a list of objects, has None",
        "needs the name of an image, has None",
    ]


def test_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('[{"image": "a.png", "annotations": [{"coordinates": ')
    with pytest.raises(PipelineError, match=r"^train\.json: not JSON: .* line 1 column 53"):
        createml.read(tmp_path)
