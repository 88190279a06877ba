"""CrowdHuman: full boxes, left, top, width, height; masks and ignored boxes are crowds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.formats import crowdhuman, recognize

Write = Callable[..., Path]


def box(values: Any, tag: str = "person", **extra: int) -> dict[str, Any]:
    return {"tag": tag, "fbox": values, "vbox": [1, 1, 2, 2], "hbox": [1, 1, 1, 1], "extra": {"box_id": 0, **extra}}


def save(folder: Path, name: str, *lines: Any) -> None:
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_boxes(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "Images" / "273271,c9db000d5146c15.png")
    picture(tmp_path / "Images" / "b.png")
    boxes = [box([-1, 2, 10, 20]), box([1, 1, 5, 5], "mask", ignore=1), box([2, 2, 5, 5], ignore=1)]
    for split in ("train", "val"):
        lines = [{"ID": "273271,c9db000d5146c15", "gtboxes": boxes}, {"ID": "b", "gtboxes": []}]
        save(tmp_path, f"annotation_{split}.odgt", *lines)
    assert recognize(tmp_path) == "crowdhuman"
    dataset = crowdhuman.read(tmp_path)
    assert sorted(dataset.splits) == ["train", "val"]
    assert [category.name for category in dataset.categories] == ["person"]
    first, empty = dataset.splits["train"].images
    assert (first.file, empty.objects) == ("Images/273271,c9db000d5146c15.png", ())
    assert [(item.class_name, item.box, item.iscrowd) for item in first.objects] == [
        ("person", (-1, 2, 10, 20), 0),
        ("person", (1, 1, 5, 5), 1),
        ("person", (2, 2, 5, 5), 1),
    ]
    assert first.objects[1].source == "annotation_train.odgt: line 1: object 2"


def test_invalid_lines(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    boxes = [box([1, 2, 3]), box(None), box([1, 2, 3, 4], ""), 7]
    save(tmp_path, "train.odgt", {"ID": "a", "gtboxes": boxes}, {"ID": "a", "gtboxes": 7}, {"gtboxes": []}, 7)
    first, *others = crowdhuman.read(tmp_path).splits["train"].images
    assert [item.issue.code for item in first.objects if item.issue] == ["invalid_record"] * 4
    assert [image.issue.code for image in others if image.issue] == ["invalid_record"] * 3
