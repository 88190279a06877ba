"""Tables with a header. Expected boxes are worked out by hand: coordinates are edges, counted from 0."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import csv_table, read, recognize
from tests.support.paths import SHARED

Write = Callable[..., Path]


def test_tensorflow_columns_and_images_without_objects(tmp_path: Path, picture: Write) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "images" / name)
    (tmp_path / "train_labels.csv").write_text(
        "filename,width,height,class,xmin,ymin,xmax,ymax\n"
        "a.png,40,30,dog,1,2,11,22\nb.png,40,30,,,,,\na.png,40,30,red mug,0,0.5,40,30\n"
    )
    (tmp_path / "test_labels.csv").write_text(
        "filename,width,height,class,xmin,ymin,xmax,ymax\nb.png,40,30,dog,1,1,2,2\n"
    )
    assert recognize(tmp_path) == "csv"
    dataset = read(tmp_path)
    assert [(category.id, category.name) for category in dataset.categories] == [(1, "dog"), (2, "red mug")]
    assert sorted(dataset.splits) == ["test", "train"]
    first, empty = dataset.splits["train"].images
    assert (first.file, first.declared_size) == ("images/a.png", (40, 30))
    assert [(item.class_name, item.box) for item in first.objects] == [
        ("dog", (1, 2, 10, 20)),
        ("red mug", (0, 0.5, 40, 29.5)),
    ]
    assert first.objects[1].source == "train_labels.csv: line 4"
    assert (empty.file, empty.objects) == ("images/b.png", ())


@pytest.mark.parametrize(
    ("header", "row", "size"),
    [
        ("image,xmin,ymin,xmax,ymax,label", '"a.png",1.5,2,11.5,22,cat', None),  # VoTT
        (  # makesense.ai
            "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height",
            "cat,1.5,2,10,20,a.png,40,30",
            (40, 30),
        ),
        ("path,x1,y1,x2,y2,class", "/home/me/a.png,1.5,2,11.5,22,cat", None),
        ("Image Path;X Min;Y Min;X Max;Y Max;Label", "a.png;1,5;2;11,5;22;cat", None),  # a spreadsheet, decimal comma
        ("image_id\tx\ty\tw\th\tcategory", "a\t1.5\t2\t10\t20\tcat", None),
        ("image_id,width,height,bbox,label", 'a,40,30,"[1.5, 2, 10.0, 20]",cat', (40, 30)),
    ],
)
def test_other_headers(tmp_path: Path, picture: Write, header: str, row: str, size: tuple[int, int] | None) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text(f"{header}\r\n{row}\r\n", encoding="utf-8-sig")
    assert recognize(tmp_path) == "csv"
    [image] = read(tmp_path).splits["train"].images
    assert (image.file, image.declared_size) == ("a.png", size)
    assert [(item.class_name, item.box) for item in image.objects] == [("cat", (1.5, 2, 10, 20))]


@pytest.mark.parametrize(
    ("header", "row", "box"),
    [
        ("image,xmin,ymin,xmax,ymax,label", 'a.png,"1,000",2,"1,234.5",22,cat', (1000, 2, 234.5, 20)),
        ("image,xmin,ymin,xmax,ymax,label", 'a.png,"0,500",2,"10,5",22,cat', (0.5, 2, 10, 20)),
        ("image;xmin;ymin;xmax;ymax;label", "a.png;1,000;2;11,500;22;cat", (1, 2, 10.5, 20)),
    ],
)
def test_commas_in_numbers(
    tmp_path: Path, picture: Write, header: str, row: str, box: tuple[float, float, float, float]
) -> None:
    """Of thousands in a field of a table that commas separate, otherwise of decimals."""
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text(f"{header}\n{row}\n")
    [image] = read(tmp_path).splits["train"].images
    assert [item.box for item in image.objects] == [box]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,40,30,dog,1,2,x,4", "xmin, ymin, xmax, ymax are ['1', '2', 'x', '4'], not four numbers"),
        ("a.png,40,30,,1,2,3,4", "needs a class, has "),
        ("a.png,40,30,dog,1,2,3", "has 7 fields while the header has 8"),
    ],
)
def test_invalid_rows(tmp_path: Path, picture: Write, row: str, message: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text(f"filename,width,height,class,xmin,ymin,xmax,ymax\n{row}\n")
    [image] = csv_table.read(tmp_path).splits["train"].images
    [item] = image.objects
    assert item.issue is not None
    assert (item.source, item.issue.code, item.issue.message) == ("train.csv: line 2", "invalid_record", message)


def test_tabs_and_the_ending_tsv(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "train.tsv").write_text("filename\tclass\txmin\tymin\txmax\tymax\na.png\tdog\t1\t2\t11\t22\n")
    assert recognize(tmp_path) == "csv"
    (image,) = read(tmp_path).splits["train"].images
    assert [(item.class_name, item.box) for item in image.objects] == [("dog", (1, 2, 10, 20))]


def test_rows_without_image(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("filename,class,xmin,ymin,xmax,ymax\n,dog,1,2,3,4\nlost.png,dog,1,2,3,4\n")
    split = csv_table.read(tmp_path).splits["train"]
    assert [orphan.issue and orphan.issue.code for orphan in split.orphan_objects] == ["invalid_record"]
    assert [image.issue and image.issue.code for image in split.images] == ["missing_image"]


@pytest.mark.parametrize(
    "header", ["filename,class", "a,b,xmin,ymin,xmax,ymax", "filename,class,xmin,ymin,xmax,ymax,score", ""]
)
def test_other_tables(tmp_path: Path, header: str) -> None:
    (tmp_path / "x.csv").write_text(f"{header}\n")
    with pytest.raises(PipelineError, match="no annotations recognized"):
        recognize(tmp_path)


@pytest.mark.parametrize("row", ["a.png,40,30,7,1.5,2,11.5,22", "7,1.5,2,10,20,a.png,40,30"])
def test_tables_without_header(tmp_path: Path, picture: Write, row: str) -> None:
    """TensorFlow's and makesense.ai's."""
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text(f"{row}\n{row}\n")
    assert recognize(tmp_path) == "csv"
    [image] = read(tmp_path).splits["train"].images
    assert (image.file, image.declared_size) == ("a.png", (40, 30))
    assert [(item.class_name, item.box) for item in image.objects] == [("7", (1.5, 2, 10, 20))] * 2


def test_a_table_without_classes(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "train.csv").write_text("filename,xmin,ymin,xmax,ymax\na.png,1,2,11,22\n")
    dataset = read(tmp_path)
    assert dataset.remarks == ("train.csv: no column names a class, so all objects are of one class, 'object'",)
    [item] = dataset.splits["train"].images[0].objects
    assert (item.class_name, item.box) == ("object", (1, 2, 10, 20))


def test_tables_made_from_annotations_are_not_a_second_format(
    tmp_path: Path, picture: Write, voc_xml: Callable[..., Path]
) -> None:
    picture(tmp_path / "a.png")
    voc_xml(tmp_path / "a.xml", [("dog", 1, 1, 4, 4)])
    (tmp_path / "labels.csv").write_text("filename,class,xmin,ymin,xmax,ymax\na.png,dog,1,1,4,4\n")
    assert recognize(tmp_path) == "voc"


def test_roboflow_export() -> None:
    folder = SHARED / "cases/g_tensorflow_csv"
    if not folder.is_dir():
        pytest.skip("../shared/cases/g_tensorflow_csv is not there")
    splits = read(folder).splits
    assert {name: sum(len(image.objects) for image in split.images) for name, split in splits.items()} == {
        "test": 10,
        "train": 10,
        "valid": 10,
    }
    image = splits["test"].images[0]
    assert image.file == "test/photo_00083_jpg.rf.00f228ce339e0504fae9305c049b6693.jpg"
    assert [(item.class_name, item.box) for item in image.objects] == [("red mug", (42, 83, 131, 134))]
