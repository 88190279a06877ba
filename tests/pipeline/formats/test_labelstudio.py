"""Label Studio: percent of the image's size; a rectangle turns about its top left corner."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import labelstudio, recognize

Write = Callable[..., Path]
BOX = {"x": 25, "y": 50, "width": 50, "height": 20, "rotation": 0}
SIZE = {"original_width": 40, "original_height": 30}


def region(value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"value": value, "type": "rectanglelabels", "image_rotation": 0, **SIZE, **more}


def task(image: str, *regions: Any, key: str = "image") -> dict[str, Any]:
    return {"id": 1, "data": {key: image}, "annotations": [{"was_cancelled": False, "result": list(regions)}]}


def save(folder: Path, *tasks: Any) -> None:
    (folder / "train.json").write_text(json.dumps(tasks))


def test_tasks(tmp_path: Path, picture: Write) -> None:
    """A file with the prefix of its upload, one without it, a choice, a cancelled annotation."""
    for name in ("0123abcd-a.png", "b.png"):
        picture(tmp_path / "images" / name)
    cancelled = {"was_cancelled": True, "result": [region(BOX | {"rectanglelabels": ["dog"]})]}
    first = task(
        "/data/upload/1/0123abcd-a.png", region(BOX | {"rectanglelabels": ["cat"]}), {"value": {"choices": ["x"]}}
    )
    first["annotations"].insert(0, cancelled)
    save(tmp_path, first, task("/data/local-files/?d=me/01234567-b.png", key="photo"))
    assert recognize(tmp_path) == "labelstudio"
    dataset = labelstudio.read(tmp_path)
    assert [category.name for category in dataset.categories] == ["cat"]
    image, empty = dataset.splits["train"].images
    assert (image.file, image.declared_size) == ("images/0123abcd-a.png", (40, 30))
    assert [(item.class_name, item.box) for item in image.objects] == [("cat", (10, 15, 20, 6))]
    assert (empty.file, empty.objects) == ("images/b.png", ())


def test_json_min(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    save(tmp_path, {"image": "a.png", "id": 1, "label": [BOX | SIZE | {"rectanglelabels": ["cat"]}], "annotator": 1})
    assert recognize(tmp_path) == "labelstudio"
    [image] = labelstudio.read(tmp_path).splits["train"].images
    assert [(item.class_name, item.box) for item in image.objects] == [("cat", (10, 15, 20, 6))]


@pytest.mark.parametrize(
    ("value", "box"),
    [
        (BOX | {"rotation": 90, "rectanglelabels": ["cat"]}, (4, 15, 6, 20)),
        ({"points": [[25, 50], [50, 50], [25, 80]], "polygonlabels": ["cat"]}, (10, 15, 10, 9)),
        ({"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "ellipselabels": ["cat"]}, (10, 12, 20, 6)),
        ({"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 90, "ellipselabels": ["cat"]}, (17, 5, 6, 20)),
    ],
)
def test_shapes(tmp_path: Path, picture: Write, value: dict[str, Any], box: tuple[float, ...]) -> None:
    picture(tmp_path / "a.png")
    save(tmp_path, task("a.png", region(value)))
    [item] = labelstudio.read(tmp_path).splits["train"].images[0].objects
    assert item.box == pytest.approx(box)


def test_invalid_records(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    wrong = [
        region({"format": "rle", "brushlabels": ["cat"]}),
        region(BOX | {"rectanglelabels": ["cat", "dog"]}),
        region({"points": [[1, 2], [3]], "polygonlabels": ["cat"]}),
        region(BOX | {"rectanglelabels": ["cat"]}, original_width=None),
    ]
    save(tmp_path, task("a.png", *wrong), task("lost.png"), {"annotations": []}, 7)
    first, *others = labelstudio.read(tmp_path).splits["train"].images
    assert [item.issue.message for item in first.objects if item.issue] == [
        "x, y, width, height are [None, None, None, None], not four numbers",
        "needs a class, has ['cat', 'dog']",
        "a polygon needs three or more points",
        "needs original_width and original_height",
    ]
    assert [image.issue.code for image in others if image.issue] == ["missing_image"] + ["invalid_record"] * 2
    (tmp_path / "train.json").write_text('["rectanglelabels", "original_width"')
    with pytest.raises(PipelineError, match=r"^train\.json: not JSON"):
        labelstudio.read(tmp_path)
