import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.formats import extract_images, labelme, recognize

Write = Callable[..., Path]


def written(path: Path, shapes: list[Any], **more: Any) -> Path:
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.png", "imageData": None}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**content, "imageHeight": 30, "imageWidth": 40, **more}))
    return path


def shape(points: Any, kind: str | None = "rectangle", label: Any = "cat", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


@pytest.mark.parametrize(
    ("drawn", "box"),
    [
        (shape([[1, 2], [11, 8]]), (1, 2, 10, 6)),
        (shape([[11, 8], [1, 2]]), (1, 2, 10, 6)),
        (shape([[1, 8], [11, 2]]), (1, 2, 10, 6)),
        (shape([[1, 2], [11, 2], [11, 8], [1, 8]]), (1, 2, 10, 6)),
        (shape([[5, 2], [9.5, 7], [1, 4]], "polygon"), (1, 2, 8.5, 5)),
        (shape([[5, 2], [9.5, 7], [1, 4]], None), (1, 2, 8.5, 5)),
        (shape([[10, 10], [13, 14]], "circle"), (5, 5, 10, 10)),
        (shape([[1, 2], [11, 8]], "mask", mask="iVBORw0"), (1, 2, 10, 6)),
    ],
)
def test_shapes(tmp_path: Path, picture: Write, drawn: Any, box: tuple[float, ...]) -> None:
    picture(tmp_path / "a.png")
    written(tmp_path / "a.json", [drawn])
    assert recognize(tmp_path) == "labelme"
    [image] = labelme.read(tmp_path).splits["all"].images
    assert (image.file, image.declared_size) == ("a.png", (40, 30))
    assert [(one.class_name, one.box, one.issue) for one in image.objects] == [("cat", box, None)]


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (shape([[1, 2], [3, 4]], "line"), "shape_type line has no area"),
        (shape([[1, 2]]), "points of a rectangle must be 2 or more pairs"),
        (shape([[1, 2], [3, "4"]]), "points of a "),
        (shape(None), "points of a "),
        (shape([[1, 2], [3, 4]], label=" "), "needs a label"),
        (shape([[1, 2], [3, 4]], label="\ud800"), "needs a label"),
        ("cat", "needs a label"),
    ],
)
def test_invalid_shapes(tmp_path: Path, picture: Write, drawn: Any, message: str) -> None:
    picture(tmp_path / "a.png")
    written(tmp_path / "a.json", [shape([[1, 2], [3, 4]]), drawn])
    good, bad = labelme.read(tmp_path).splits["all"].images[0].objects
    assert good.issue is None
    assert bad.issue
    assert bad.issue.code == "invalid_record"
    assert message in bad.issue.message
    assert bad.source == "a.json: shape 2"


def test_difficult(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    corners = [[1, 2], [3, 4]]
    shapes = [shape(corners), shape(corners, flags={"difficult": True}), shape(corners, difficult=True)]
    written(tmp_path / "a.json", shapes)
    [image] = labelme.read(tmp_path).splits["all"].images
    assert [one.difficult for one in image.objects] == [0, 1, 1]


def test_images_elsewhere_renamed_and_embedded(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "renamed.png")
    written(tmp_path / "labels" / "a.json", [], imagePath="..\\images\\a.png", imageData="A" * 200_000)
    written(tmp_path / "labels" / "renamed.json", [], imagePath="old.jpg")
    written(tmp_path / "labels" / "x.json", [shape([[1, 2], [3, 4]])], imageData="AAAA")
    found = labelme.read(tmp_path).splits["all"].images
    assert [image.file for image in found] == ["images/a.png", "images/renamed.png", ""]
    assert found[2].issue
    assert found[2].issue.code == "missing_image"


def test_damaged_file_is_an_issue_and_other_json_is_ignored(tmp_path: Path, picture: Write) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "a.png")
        written(tmp_path / split / "a.json", [shape([[1, 2], [3, 4]], label=split)])
    (tmp_path / "val" / "b.json").write_text('{"shapes": [')
    (tmp_path / "val" / "c.json").write_text('{"settings": 1}')
    (tmp_path / "val" / "d.json").write_text("[" * 100_000)
    dataset = labelme.read(tmp_path)
    assert [category.name for category in dataset.categories] == ["train", "val"]
    assert len(dataset.splits["train"].images) == 1
    good, broken, deep = dataset.splits["val"].images
    assert good.issue is None
    assert broken.issue
    assert "line 1 column 13" in broken.issue.message
    assert deep.issue
    assert deep.issue.code == "invalid_record"


def test_images_inside_annotations_are_extracted(tmp_path: Path, picture: Write) -> None:
    """Only those without an image file, and only those that can be decoded."""
    picture(tmp_path / "beside.png")
    image = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(image, "PNG")
    data = base64.b64encode(image.getvalue()).decode()
    for name, value in {"a": data, "beside": data, "broken": "?", "none": None}.items():
        written(tmp_path / f"{name}.json", [shape([[1, 2], [11, 8]])], imageData=value, imagePath=f"..\\me\\{name}.png")
    assert extract_images(tmp_path) == 1
    assert (tmp_path / "a.png").read_bytes() == image.getvalue()
    images = labelme.read(tmp_path).splits["all"].images
    assert [(one.file, one.issue and one.issue.code) for one in images] == [
        ("a.png", None),
        ("beside.png", None),
        ("", "missing_image"),
        ("", "missing_image"),
    ]
    assert extract_images(tmp_path) == 0
