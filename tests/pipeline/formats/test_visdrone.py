"""VisDrone: left, top, width, height; ignored regions and objects."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.formats import recognize, visdrone

Write = Callable[..., Path]


def test_boxes_ignored_regions_and_ignored_objects(tmp_path: Path, picture: Write) -> None:
    for split in ("VisDrone2019-DET-train", "VisDrone2019-DET-val"):
        for name in ("a", "b"):
            picture(tmp_path / split / "images" / f"{name}.png")
        (tmp_path / split / "annotations").mkdir()
        (tmp_path / split / "annotations" / "a.txt").write_text(
            "1,2,10,20,1,4,0,1\n3,4,5,6,0,0,0,0,\n5,6,7,8,0,11,0,2\r\n7,8,9,10,1,1,1,0\n"
        )
        (tmp_path / split / "annotations" / "b.txt").write_text("")
    assert recognize(tmp_path) == "visdrone"
    dataset = visdrone.read(tmp_path)
    assert [category.name for category in dataset.categories] == ["pedestrian", "car", "others"]
    assert sorted(dataset.splits) == ["VisDrone2019-DET-train", "VisDrone2019-DET-val"]
    first, empty = dataset.splits["VisDrone2019-DET-train"].images
    assert (first.file, empty.objects) == ("VisDrone2019-DET-train/images/a.png", ())
    assert [(item.class_name, item.box, item.any_class, item.difficult) for item in first.objects] == [
        ("car", (1, 2, 10, 20), False, 0),
        ("", (3, 4, 5, 6), True, 0),
        ("others", (5, 6, 7, 8), False, 1),
        ("pedestrian", (7, 8, 9, 10), False, 0),
    ]


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("1,2,10,20,1,4,0", "invalid_record", "has 7 columns, not 8"),
        ("1,2,x,20,1,4,0,0", "invalid_record", "x, y, width, height are ['1', '2', 'x', '20'], not four numbers"),
        ("1,2,10,20,1,12,0,0", "unknown_class", "category 12 is none of 0 to 11"),
    ],
)
def test_invalid_lines(tmp_path: Path, picture: Write, line: str, code: str, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(f"1,2,10,20,1,4,0,1\n\n{line}\n")
    _, item = visdrone.read(tmp_path).splits["all"].images[0].objects
    assert item.issue
    assert (item.source, item.issue.code, item.issue.message) == ("a.txt: line 3", code, message)


def test_annotations_without_image_and_not_text(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "b.png")
    (tmp_path / "a.txt").write_text("1,2,10,20,1,4,0,1\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    issues = [image.issue for image in visdrone.read(tmp_path).splits["all"].images]
    assert [(issue.code, issue.message) for issue in issues if issue] == [
        ("missing_image", "image 'a' not found"),
        ("invalid_record", "not UTF-8 text"),
    ]
