"""VGG Image Annotator. Coordinates are edges, counted from 0; boxes around shapes are worked out by hand."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import recognize, via

Write = Callable[..., Path]
RECT = {"name": "rect", "x": 1, "y": 2.5, "width": 10, "height": 20}


def region(shape: dict[str, Any], **attributes: Any) -> dict[str, Any]:
    return {"shape_attributes": shape, "region_attributes": attributes}


def entry(name: str, *regions: dict[str, Any]) -> dict[str, Any]:
    return {"filename": name, "size": 123, "regions": list(regions), "file_attributes": {}}


def save(folder: Path, *entries: dict[str, Any], name: str = "via_train.json") -> None:
    (folder / name).write_text(json.dumps({f"{item['filename']}123": item for item in entries}))


def test_entries_without_file_attributes(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    item = entry("a.png", region(RECT, type="cat"))
    del item["file_attributes"]
    save(tmp_path, item)
    assert recognize(tmp_path) == "via"


@pytest.mark.parametrize("version", ["project", "annotations", "version 1"])
def test_versions(tmp_path: Path, picture: Write, version: str) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "images" / name)
    entries = {"a.png123": entry("a.png", region(RECT, type="cat")), "b.png9": entry("b.png")}
    if version == "version 1":
        entries["a.png123"]["regions"] = {"0": region(RECT, type="cat")}
    settings = {"_via_settings": {"ui": {}}, "_via_img_metadata": entries, "_via_attributes": {"region": {"type": {}}}}
    (tmp_path / "via_train.json").write_text(json.dumps(settings if version == "project" else entries))
    assert recognize(tmp_path) == "via"
    dataset = via.read(tmp_path)
    assert [(category.id, category.name) for category in dataset.categories] == [(1, "cat")]
    first, empty = dataset.splits["train"].images
    assert (first.file, empty.file, empty.objects) == ("images/a.png", "images/b.png", ())
    assert [(item.class_name, item.box) for item in first.objects] == [("cat", (1, 2.5, 10, 20))]
    assert first.objects[0].source == "via_train.json: image a.png123: object 1"


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ({"name": "circle", "cx": 20, "cy": 15, "r": 5}, (15, 10, 10, 10)),
        ({"name": "ellipse", "cx": 20, "cy": 15, "rx": 8, "ry": 2}, (12, 13, 16, 4)),
        ({"name": "ellipse", "cx": 20, "cy": 15, "rx": 8, "ry": 2, "theta": math.pi / 2}, (18, 7, 4, 16)),
        ({"name": "polygon", "all_points_x": [1, 9, 5], "all_points_y": [4, 2, 8]}, (1, 2, 8, 6)),
    ],
)
def test_shapes(tmp_path: Path, picture: Write, shape: dict[str, Any], box: tuple[float, ...]) -> None:
    picture(tmp_path / "a.png")
    save(tmp_path, entry("a.png", region(shape, type="cat")))
    [item] = via.read(tmp_path).splits["train"].images[0].objects
    assert item.box == pytest.approx(box)


@pytest.mark.parametrize(
    ("attributes", "names", "remark"),
    [
        ([{}, {}], ["object", "object"], "regions have no attribute; the class is 'object'"),  # a data set of one class
        (
            [{"color": "red", "Class": "cat"}, {"color": "blue", "Class": "dog"}],
            ["cat", "dog"],
            "regions have attributes Class, color; the class is Class",
        ),
        (
            [{"fruit": {"apple": True, "pear": False}}, {"fruit": {"pear": True}}],
            ["apple", "pear"],
            None,
        ),  # check boxes
        (
            [{"fruit": "fig", "ripe": "yes"}, {"fruit": "date"}],
            ["fig", "date"],
            "regions have attributes fruit, ripe; the class is fruit",
        ),
    ],
)
def test_attribute_that_is_the_class(
    tmp_path: Path, picture: Write, attributes: list[dict[str, Any]], names: list[str], remark: str | None
) -> None:
    picture(tmp_path / "a.png")
    save(tmp_path, entry("a.png", *(region(RECT, **values) for values in attributes)))
    dataset = via.read(tmp_path)
    assert [item.class_name for item in dataset.splits["train"].images[0].objects] == names
    assert dataset.remarks == ((f"via_train.json: {remark}",) if remark else ())


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"name": "point", "cx": 1, "cy": 2}, "shape point has no area; supported: rect, circle, ellipse, polygon"),
        (
            {"name": "rect", "x": 1, "y": 2, "width": None, "height": 4},
            "x, y, width, height are [1, 2, None, 4], not four",
        ),
        ({"name": "polygon", "all_points_x": [1], "all_points_y": [4]}, "a polygon needs three or more points"),
    ],
)
def test_invalid_shapes(tmp_path: Path, picture: Write, shape: dict[str, Any], message: str) -> None:
    picture(tmp_path / "a.png")
    save(tmp_path, entry("a.png", region(shape, type="cat"), region(RECT, type="")))
    objects = via.read(tmp_path).splits["train"].images[0].objects
    issues = [item.issue for item in objects if item.issue]
    assert [issue.code for issue in issues] == ["invalid_record"] * 2
    assert message in issues[0].message
    assert issues[1].message == "needs a class, has "


def test_invalid_images(tmp_path: Path) -> None:
    save(tmp_path, entry("lost.png"), entry("a.png") | {"filename": ""}, entry("b.png") | {"regions": "x"})
    issues = [image.issue for image in via.read(tmp_path).splits["train"].images]
    assert [(issue.code, issue.message) for issue in issues if issue] == [
        ("missing_image", "image 'lost.png' not found"),
        ("invalid_record", "needs the name of an image, has "),
        ("invalid_record", "needs a list of objects, has x"),
    ]
    (tmp_path / "via_train.json").write_text('{"_via_img_metadata": [1]}')
    with pytest.raises(PipelineError, match=r"^via_train\.json: not a VIA project"):
        via.read(tmp_path)


def test_a_project_of_version_3(tmp_path: Path, picture: Write) -> None:
    """Regions belong to views; the class is an option's label, and a region without shape describes the file."""
    for name in ("a.png", "b.png"):
        picture(tmp_path / "images" / name)
    regions = [
        ("1", [2, 1, 2.5, 10, 20], {"1": "K"}),
        ("1", [3, 20, 15, 5], {"1": "B"}),
        ("1", [4, 20, 15, 8, 2], {"1": "K"}),
        ("1", [7, 1, 4, 9, 2, 5, 8], {"1": "K"}),
        ("1", [8, 3, 9, 12, 4, 20, 11, 13, 30], {"1": "K"}),
        ("1", [1, 3, 9], {"1": "K"}),
        ("1", [9, 7, 15, 17, 25, 25, 21], {"1": "K"}),  # at a distance of 10 from (17, 15)
        ("1", [9, 5, 20, 15, 20, 25, 20], {"1": "K"}),  # on a line
        ("1", [], {"2": "sunny"}),
        ("video", [2, 1, 2, 3, 4], {"1": "K"}),
    ]
    content = {
        "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": ["1", "2", "video"]},
        "attribute": {
            "1": {"aname": "kind", "anchor_id": "FILE1_Z0_XY1", "type": 3, "options": {"K": "sky", "B": "ball"}},
            "2": {"aname": "weather", "anchor_id": "FILE1_Z0_XY0", "type": 1, "options": {}},
        },
        "file": {
            "7": {"fid": 7, "fname": "images/a.png", "type": 2, "loc": 1, "src": ""},
            "8": {"fid": "8", "fname": "b.png", "type": 2, "loc": 2, "src": "http://example.org/b.png"},
            "9": {"fid": 9, "fname": "c.mp4", "type": 4, "loc": 1, "src": ""},
        },
        "view": {"1": {"fid_list": [7]}, "2": {"fid_list": ["8"]}, "video": {"fid_list": [9]}},
        "metadata": {
            f"{view}_{number}": {"vid": view, "flg": 0, "z": [], "xy": xy, "av": attributes}
            for number, (view, xy, attributes) in enumerate(regions)
        },
    }
    (tmp_path / "via_train.json").write_text(json.dumps(content))
    assert recognize(tmp_path) == "via"
    dataset = via.read(tmp_path)
    assert [category.name for category in dataset.categories] == ["ball", "sky"]
    first, empty = dataset.splits["train"].images
    assert (first.file, empty.file, empty.objects) == ("images/a.png", "images/b.png", ())
    assert [(item.class_name, item.box) for item in first.objects if item.issue is None] == [
        ("sky", (1, 2.5, 10, 20)),
        ("ball", (15, 10, 10, 10)),
        ("sky", (12, 13, 16, 4)),
        ("sky", (1, 2, 8, 6)),
        ("sky", (3, 4, 17, 26)),
        ("sky", (7, 5, 20, 20)),
    ]
    assert [item.issue.message.split(";")[0] for item in first.objects if item.issue] == [
        "shape point has no area",
        "cx, cy, r, r are [None, None, None, None], not four numbers",
    ]


@pytest.mark.parametrize(("checked", "name"), [("0", "cat"), ("0,1", None), ("", None)])
def test_check_boxes_of_version_3(tmp_path: Path, picture: Write, checked: str, name: str | None) -> None:
    picture(tmp_path / "a.png")
    content = {
        "project": {"vid_list": ["1"]},
        "attribute": {"1": {"aname": "kind", "type": 2, "options": {"0": "cat", "1": "dog"}}},
        "file": {"1": {"fname": "a.png", "type": 2}},
        "view": {"1": {"fid_list": ["1"]}},
        "metadata": {"1_x": {"vid": "1", "xy": [2, 1, 2, 3, 4], "av": {"1": checked}}},
    }
    (tmp_path / "via_train.json").write_text(json.dumps(content))
    [item] = via.read(tmp_path).splits["train"].images[0].objects
    assert (item.class_name or None, item.issue and item.issue.code) == (name, None if name else "invalid_record")


def test_csv(tmp_path: Path, picture: Write) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    shape, attributes = (json.dumps(value).replace('"', '""') for value in (RECT, {"type": "cat"}))
    (tmp_path / "train.csv").write_text(
        "#filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
        f'a.png,1,"{{}}",2,0,"{shape}","{attributes}"\na.png,1,"{{}}",2,1,"{shape}","{attributes}"\n'
        'b.png,1,"{}",0,0,"{}","{}"\n'
    )
    assert recognize(tmp_path) == "via"
    first, empty = via.read(tmp_path).splits["train"].images
    assert [(item.class_name, item.box) for item in first.objects] == [("cat", (1, 2.5, 10, 20))] * 2
    assert (empty.file, empty.objects) == ("b.png", ())
    (tmp_path / "train.csv").write_text("filename,region_shape_attributes,region_attributes\na.png,{x,{}\n")
    with pytest.raises(PipelineError, match=r"^train\.csv: line 2: not JSON"):
        via.read(tmp_path)
