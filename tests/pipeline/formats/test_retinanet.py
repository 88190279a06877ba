from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats import recognize, retinanet
from pipeline.formats.dataset_files import list_files

Write = Callable[..., Path]


def test_rows_images_without_objects_and_classes(tmp_path: Path, picture: Write) -> None:
    for name in ("a.png", "deep/b.png", "c.png"):
        picture(tmp_path / "images" / name)
    (tmp_path / "train.csv").write_text(
        "/home/me/images/a.png,1,2,11,22,dog\nimages/c.png,,,,,\r\nimages\\deep\\b.png,0.5,0,3,4,cat\n\n"
        "/home/me/images/a.png,3,2,1,5,cat\n"
    )
    (tmp_path / "val.csv").write_text("images/c.png,1,1,2,2,cat\n")
    (tmp_path / "classes.csv").write_text("dog,1\ncat,0\nbird,2\n")
    assert recognize(tmp_path) == "retinanet"
    dataset = retinanet.read(tmp_path)
    assert dataset.categories == (Category(0, "cat"), Category(1, "dog"), Category(2, "bird"))
    assert list(dataset.splits) == ["train", "val"]
    first, empty, other = dataset.splits["train"].images
    assert [image.file for image in (first, empty, other)] == ["images/a.png", "images/c.png", "images/deep/b.png"]
    assert [(item.class_name, item.box) for item in first.objects] == [("dog", (1, 2, 10, 20)), ("cat", (3, 2, -2, 3))]
    assert [item.source for item in first.objects] == ["train.csv: line 1", "train.csv: line 5"]
    assert empty.objects == ()
    assert other.objects[0].box == (0.5, 0, 2.5, 4)


def test_roboflow_layout_without_class_file(tmp_path: Path, picture: Write) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / "a.png")
        (tmp_path / split / "_annotations.csv").write_text("a.png,1,2,11,22,dog\n")
    dataset = retinanet.read(tmp_path)
    assert {name: split.images[0].file for name, split in dataset.splits.items()} == {
        "train": "train/a.png",
        "valid": "valid/a.png",
    }
    assert dataset.categories == (Category(0, "dog"),)


def test_rows_with_the_size_of_the_image(tmp_path: Path, picture: Write) -> None:
    """SKU-110K's."""
    picture(tmp_path / "a.png")
    (tmp_path / "annotations_train.csv").write_text("a.png,1,2,11,22,object,40,30\na.png,1,1,2,2,object,40,30\n")
    assert recognize(tmp_path) == "retinanet"
    [image] = retinanet.read(tmp_path).splits["annotations_train"].images
    assert image.declared_size == (40, 30)
    assert [item.box for item in image.objects] == [(1, 2, 10, 20), (1, 1, 1, 1)]


@pytest.mark.parametrize(
    ("row", "code", "message"),
    [
        ("a.png,1,2,3,,cat", "invalid_record", "not path,x1,y1,x2,y2,class"),
        ("a.png,1,2,3,4,", "invalid_record", "not path,x1,y1,x2,y2,class"),
        ("a.png,1,2,3,x,cat", "invalid_record", "not path,x1,y1,x2,y2,class"),
        ("a.png,1,2,3,4", "invalid_record", "not path,x1,y1,x2,y2,class"),
        ("a.png,1,2,3,4,cow", "unknown_class", "class 'cow' is not in the class file"),
        ("a.png,1,2,nan,4,cat", None, ""),
    ],
)
def test_invalid_rows(tmp_path: Path, picture: Write, row: str, code: str | None, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "classes.csv").write_text("cat,0\n")
    (tmp_path / "train.csv").write_text(f"a.png,,,,,\n{row}\n")
    [image] = retinanet.read(tmp_path).splits["train"].images
    [item] = image.objects
    assert item.source == "train.csv: line 2"
    assert (item.issue.code if item.issue else None) == code
    assert message in (item.issue.message if item.issue else "")


def test_rows_without_an_image(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("a.png,,,,,\nlost.png,,,,,\n,1,2,3,4,cat\n")
    split = retinanet.read(tmp_path).splits["train"]
    assert [image.issue and image.issue.code for image in split.images] == [None, "missing_image"]
    assert [orphan.source for orphan in split.orphan_objects] == ["train.csv: line 3"]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("cat,0\ncat,1\n", "classes.csv: line 2: class 'cat' or id 1 is already used"),
        ("cat,0\ndog,0\n", "classes.csv: line 2: class 'dog' or id 0 is already used"),
        ("cat,0\ndog\n", "classes.csv: line 2: .* is not a class name and its id"),
    ],
)
def test_invalid_class_files(tmp_path: Path, classes: str, message: str) -> None:
    (tmp_path / "train.csv").write_text("a.png,,,,,\n")
    (tmp_path / "classes.csv").write_text(classes)
    with pytest.raises(PipelineError, match=message):
        retinanet.read(tmp_path)


def test_class_files_that_differ(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("a.png,,,,,\n")
    (tmp_path / "classes.csv").write_text("cat,0\n")
    (tmp_path / "names.csv").write_text("dog,0\n")
    with pytest.raises(PipelineError, match=r"^names\.csv: its classes differ from those of classes\.csv"):
        retinanet.read(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,4,4,cat,1,1,2,2\n",  # TensorFlow's
        "path,x1,y1,x2,y2,class\na.png,1,1,2,2,cat\n",
        "1,2,3,4,5,6\n",
        "a.png,1,2,3,4,0.9,cat\n",
        "",
    ],
)
def test_other_tables_are_not_recognized(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    assert retinanet.find_evidence(tmp_path, list_files(tmp_path)) is None
