"""BDD100K: corners are pixels inside the box, so x2 − x1 + 1 is the width."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import bdd100k, recognize

Write = Callable[..., Path]
CAR = {
    "id": "0",
    "category": "car",
    "attributes": {"occluded": False},
    "box2d": {"x1": 1, "y1": 2.5, "x2": 10, "y2": 21.5},
}
CROWD = {"id": 1, "category": "person", "attributes": {"crowd": True}, "box2d": {"x1": 0, "y1": 0, "x2": 4, "y2": 4}}
LANE = {"id": 2, "category": "lane", "poly2d": [{"vertices": [[1, 2], [3, 4]]}]}


@pytest.mark.parametrize("form", ["list", "dataset"])
def test_frames(tmp_path: Path, picture: Write, form: str) -> None:
    for split in ("train", "val"):
        picture(tmp_path / "images/100k" / split / f"{split}1.png")
        picture(tmp_path / "images/100k" / split / f"{split}2.png")
        frames = [{"name": f"{split}1.png", "labels": [CAR, LANE, CROWD]}, {"name": f"{split}2.png", "labels": None}]
        (tmp_path / "labels").mkdir(exist_ok=True)
        content = frames if form == "list" else {"frames": frames, "config": {"imageSize": None}}
        (tmp_path / "labels" / f"bdd100k_labels_images_{split}.json").write_text(json.dumps(content))
    assert recognize(tmp_path) == "bdd100k"
    dataset = bdd100k.read(tmp_path)
    assert [category.name for category in dataset.categories] == ["car", "person"]
    assert sorted(dataset.splits) == ["train", "val"]
    first, empty = dataset.splits["train"].images
    assert (first.file, empty.objects) == ("images/100k/train/train1.png", ())
    assert [(item.class_name, item.box, item.iscrowd) for item in first.objects] == [
        ("car", (1, 2.5, 10, 20), 0),
        ("person", (0, 0, 5, 5), 1),
    ]


def test_files_of_single_images(tmp_path: Path, picture: Write) -> None:
    for split in ("train", "val"):
        for name, objects in {"a": [CAR, LANE], "b": [], "c": None}.items():
            picture(tmp_path / "images" / split / f"{name}.png")
            content = {"name": name, "frames": [{"timestamp": 1, "objects": objects}], "attributes": {}}
            path = tmp_path / "labels" / split / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content) if objects is not None else "{")
    assert recognize(tmp_path) == "bdd100k"
    splits = bdd100k.read(tmp_path).splits
    assert sorted(splits) == ["train", "val"]
    first, empty, damaged = splits["train"].images
    assert (first.file, empty.file, empty.objects) == ("images/train/a.png", "images/train/b.png", ())
    assert [(item.class_name, item.box) for item in first.objects] == [("car", (1, 2.5, 10, 20))]
    assert damaged.issue
    assert damaged.issue.message.startswith("not JSON: ")


def test_invalid_records(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    wrong: list[Any] = [CAR | {"box2d": {"x1": 1, "y1": None}}, CAR | {"category": ""}, 7]
    frames = [{"name": "a.png", "labels": wrong}, {"name": "a.png", "labels": 3}, {"labels": []}]
    (tmp_path / "train.json").write_text(json.dumps(frames))
    first, *others = bdd100k.read(tmp_path).splits["train"].images
    assert [item.issue.message for item in first.objects if item.issue] == [
        "x1, y1, x2, y2 are [1, None, None, None], not four numbers",
        "needs a class, has ",
        "x1, y1, x2, y2 are [None, None, None, None], not four numbers",
    ]
    assert [image.issue.message for image in others if image.issue] == [
        "needs a list of objects, has 3",
        "needs the name of an image, has None",
    ]
    (tmp_path / "train.json").write_text('{"name": 1, "category": 1, "box2d": 1}')
    with pytest.raises(PipelineError, match=r"^train\.json: not a list of frames"):
        bdd100k.read(tmp_path)
