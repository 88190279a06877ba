"""DOTA: the upright box around four corners."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.formats import dota, recognize

Write = Callable[..., Path]


def test_corners_classes_and_difficulty(tmp_path: Path, picture: Write) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "images" / "P0001.png")
        (tmp_path / split / "labelTxt").mkdir()
        (tmp_path / split / "labelTxt" / "P0001.txt").write_text(
            "imagesource:GoogleEarth\ngsd:0.146\n"
            "10.0 1.0 20.0 5.5 12.0 9.0 2.0 4.0 large-vehicle 0\n1 1 4 1 4 3 1 3 ship 1\n"
        )
    assert recognize(tmp_path) == "dota"
    dataset = dota.read(tmp_path)
    assert sorted(dataset.splits) == ["train", "val"]
    assert [category.name for category in dataset.categories] == ["large-vehicle", "ship"]
    assert dataset.remarks == ("DOTA's oriented boxes are read as the upright boxes around them",)
    [image] = dataset.splits["train"].images
    assert image.file == "train/images/P0001.png"
    assert [(item.class_name, item.box, item.difficult) for item in image.objects] == [
        ("large-vehicle", (2, 1, 18, 8), 0),
        ("ship", (1, 1, 3, 2), 1),
    ]
    assert image.objects[0].source == "train/labelTxt/P0001.txt: line 3"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1 1 4 1 4 3 1 x ship 0", "1 1 4 1 4 3 1 x ship 0 does not begin with four corners"),
        ("1 1 4 1 4 3 1 3", "has no class"),
    ],
)
def test_invalid_lines(tmp_path: Path, picture: Write, line: str, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(f"1 1 4 1 4 3 1 3 ship 0\n{line}\n")
    _, item = dota.read(tmp_path).splits["all"].images[0].objects
    assert item.issue
    assert (item.issue.code, item.issue.message) == ("invalid_record", message)
