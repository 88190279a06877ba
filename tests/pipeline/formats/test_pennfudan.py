"""The text files of the Penn-Fudan pedestrians, valid and invalid."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import formats
from pipeline.errors import PipelineError

# As in the data set's own readme.txt.
TEXT = """\
# Compatible with PASCAL Annotation Version 1.00
Image filename : "PennFudanPed/PNGImages/FudanPed00001.png"
Image size (X x Y x C) : 559 x 536 x 3
Database : "The Penn-Fudan-Pedestrian Database"
Objects with ground truth : 2 { "PASpersonWalking" "PASpersonStanding" }
# Note there may be some objects not included in the ground truth list for they are severe-occluded
# or have very small size.
# Top left pixel co-ordinates : (1, 1)
# Details for pedestrian 1 ("PASpersonWalking")
Original label for object 1 "PASpersonWalking" : "PennFudanPed"
Bounding box for object 1 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (160, 182) - (302, 431)
Pixel mask for object 1 "PASpersonWalking" : "PennFudanPed/PedMasks/FudanPed00001_mask.png"

# Details for pedestrian 2 ("PASpersonStanding")
Original label for object 2 "PASpersonStanding" : "PennFudanPed"
Bounding box for object 2 "PASpersonStanding" (Xmin, Ymin) - (Xmax, Ymax) : (420, 171) - (535, 486)
Pixel mask for object 2 "PASpersonStanding" : "PennFudanPed/PedMasks/FudanPed00001_mask.png"
"""


@pytest.fixture
def annotated(tmp_path: Path, picture: Callable[..., Path]) -> Callable[..., Path]:
    def write(text: str = TEXT, newline: str = "\n") -> Path:
        picture(tmp_path / "PennFudanPed/PNGImages/FudanPed00001.png", (559, 536))
        picture(tmp_path / "PennFudanPed/PedMasks/FudanPed00001_mask.png", (559, 536))
        (tmp_path / "PennFudanPed/readme.txt").write_text("1. Directory structure:\n")
        path = tmp_path / "PennFudanPed/Annotation/FudanPed00001.txt"
        path.parent.mkdir()
        path.write_text(text, newline=newline)
        return tmp_path

    return write


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_boxes_are_one_based_and_inclusive(annotated: Callable[..., Path], newline: str) -> None:
    folder = annotated(newline=newline)
    assert formats.recognize(folder) == "pennfudan"
    dataset = formats.read(folder)
    assert [(category.id, category.name) for category in dataset.categories] == [
        (1, "PASpersonStanding"),
        (2, "PASpersonWalking"),
    ]
    (image,) = dataset.splits["all"].images
    assert (image.file, image.declared_size, image.issue) == (
        "PennFudanPed/PNGImages/FudanPed00001.png",
        (559, 536),
        None,
    )
    assert [(item.class_name, item.box) for item in image.objects] == [
        ("PASpersonWalking", (159.0, 181.0, 143.0, 250.0)),
        ("PASpersonStanding", (419.0, 170.0, 116.0, 316.0)),
    ]
    assert dataset.num_image_files == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Image filename", "Image", "has no 'Image filename'"),
        ("ground truth : 2", "ground truth : 3", "declares 3 objects and has 2 boxes"),
        ("ground truth : 2", f"ground truth : {'2' * 5000}", "doesn't declare the number of objects and has 2 boxes"),
        ("Objects with", "Objects", "doesn't declare the number of objects and has 2 boxes"),
        ("FudanPed00001.png", "FudanPed00002.png", "image 'PennFudanPed/PNGImages/FudanPed00002.png' not found"),
    ],
)
def test_incomplete_record(annotated: Callable[..., Path], old: str, new: str, message: str) -> None:
    (image,) = formats.read(annotated(TEXT.replace(old, new))).splits["all"].images
    assert image.issue is not None
    assert image.issue.message == message


def test_invalid_box(annotated: Callable[..., Path]) -> None:
    (image,) = formats.read(annotated(TEXT.replace("(160, 182)", "(160, nan)"))).splits["all"].images
    assert [item.issue is None for item in image.objects] == [False, True]


def test_other_text_is_not_recognized(tmp_path: Path) -> None:
    (tmp_path / "0001.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(PipelineError, match="no annotations recognized"):
        formats.recognize(tmp_path)
    with pytest.raises(PipelineError, match="no PASCAL annotation found"):
        formats.read(tmp_path, "pennfudan")
