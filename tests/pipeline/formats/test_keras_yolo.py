"""keras-yolo3's text: corners as edges, and a class id."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import keras_yolo, recognize

Write = Callable[..., Path]


@pytest.mark.parametrize(
    "objects", ["1,2.5,11,22.5,1 0,0,5,5,0", "1 2.5 11 22.5 1 0 0 5 5 0"], ids=["commas", "spaces"]
)
def test_boxes_and_class_names(tmp_path: Path, picture: Write, objects: str) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / "my image.png")
        picture(tmp_path / split / "b.png")
        (tmp_path / split / "_annotations.txt").write_text(f"/home/me/my image.png {objects}\nb.png\n")
        (tmp_path / split / "_classes.txt").write_text("cat\ndog\n")
    assert recognize(tmp_path) == "keras_yolo"
    dataset = keras_yolo.read(tmp_path)
    assert sorted(dataset.splits) == ["train", "valid"]
    assert [(category.id, category.name) for category in dataset.categories] == [(0, "cat"), (1, "dog")]
    first, empty = dataset.splits["valid"].images
    assert (first.file, empty.file, empty.objects) == ("valid/my image.png", "valid/b.png", ())
    assert [(item.class_name, item.box) for item in first.objects] == [
        ("dog", (1, 2.5, 10, 20)),
        ("cat", (0, 0, 5, 5)),
    ]
    assert first.objects[1].source == "valid/_annotations.txt: line 1: object 2"


def test_classes_without_names(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "train.txt").write_text("a.png 1,2,3,4,10 1,2,3,4,9\n")
    dataset = keras_yolo.read(tmp_path)
    assert [(category.id, category.name) for category in dataset.categories] == [(9, "9"), (10, "10")]
    assert [item.class_name for item in dataset.splits["train"].images[0].objects] == ["10", "9"]
    assert "called by their ids" in dataset.remarks[0]


def test_invalid_lines(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "train.txt").write_text(
        "a.png 1,2,3,4,0\n" * 20 + "a.png 1,2,3,4\na.png 1,2,3,4,1\na.png 1,,3,4,0\nno image\n"
    )
    (tmp_path / "classes.txt").write_text("cat\n")
    images = keras_yolo.read(tmp_path).splits["train"].images[20:]
    issues = [item.issue for image in images for item in (image, *image.objects) if item.issue]
    assert [(issue.code, issue.message) for issue in issues] == [
        ("invalid_record", "1,2,3,4 is not x1,y1,x2,y2,id"),
        ("unknown_class", "class 1 is not in the list of classes"),
        ("invalid_record", "xmin, ymin, xmax, ymax are ['1', '', '3', '4'], not four numbers"),
        ("invalid_record", "no image is not path x1,y1,x2,y2,id …"),
    ]


def test_lists_of_classes_that_differ(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.png 1,2,3,4,0\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    (tmp_path / "voc.names").write_text("dog\n")
    with pytest.raises(PipelineError, match=r"^voc\.names: its classes differ from those of classes\.txt"):
        keras_yolo.read(tmp_path)
