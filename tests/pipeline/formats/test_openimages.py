from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats import openimages, recognize

Write = Callable[..., Path]
HEAD = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"


def test_official_layout(tmp_path: Path, picture: Write) -> None:
    """Splits by file name, images without suffix, classes as codes, groups."""
    for split in ("train", "validation"):
        picture(tmp_path / split / "0001.jpg", (40, 20))
    (tmp_path / "oidv6-train-annotations-bbox.csv").write_text(
        f"{HEAD}0001,xclick,/m/02,1,0.25,0.5,0.1,1,0,0,0,0,0\n0001,xclick,/m/01,1,0,1,0,0.5,0,0,1,0,0\n"
    )
    (tmp_path / "validation-annotations-bbox.csv").write_text(f"{HEAD}0001,xclick,/m/02,1,0,1,0,1,0,0,0,0,0\n")
    (tmp_path / "class-descriptions-boxable.csv").write_text('/m/02,Cat\n/m/01,"Dog, big"\n/m/03,Cow\n')
    assert recognize(tmp_path) == "openimages"
    dataset = openimages.read(tmp_path)
    assert dataset.categories == (Category(1, "Cat"), Category(2, "Dog, big"), Category(3, "Cow"))
    [train] = dataset.splits["train"].images
    assert train.file == "train/0001.jpg"
    assert train.declared_size is None  # nothing is: the size that made pixels of shares is the image's own
    assert [(item.class_name, item.box, item.iscrowd) for item in train.objects] == [
        ("Cat", (10, 2, 10, 18), 0),
        ("Dog, big", (0, 0, 40, 10), 1),
    ]
    assert train.objects[1].source == "oidv6-train-annotations-bbox.csv: line 3"
    assert dataset.splits["validation"].images[0].file == "validation/0001.jpg"


def test_decimal_comma_and_plain_names(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png", (40, 20))
    (tmp_path / "boxes.csv").write_text(f'{HEAD}a.png,,dog,,"0,25","0,5","0,1","1,0",,,,,\n')
    dataset = openimages.read(tmp_path)
    [image] = dataset.splits["boxes"].images
    assert [(item.class_name, item.box) for item in image.objects] == [("dog", (10, 2, 10, 18))]
    assert dataset.categories == (Category(1, "dog"),)


def test_invalid_records(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows = "a,,,,0,1,0,1,,,,,\na,,cat,,0,x,0,1,,,,,\na,,cat,,0,1\nlost,,cat,,0,1,0,1,,,,,\nbroken,,cat,,0,1,0,1,,,,,\n"
    (tmp_path / "train.csv").write_text(HEAD + rows)
    split = openimages.read(tmp_path).splits["train"]
    good, lost, broken = split.images
    assert [item.issue and item.issue.message for item in good.objects] == [
        "has no LabelName",
        "XMin, XMax, YMin, YMax are ['0', 'x', '0', '1'], not four numbers",
    ]
    assert lost.issue
    assert lost.issue.code == "missing_image"
    assert broken.issue
    assert broken.issue.code == "undecodable_image"
    [orphan] = split.orphan_objects
    assert orphan.source == "train.csv: line 4"


def test_contradicting_class_descriptions(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(HEAD)
    (tmp_path / "classes.csv").write_text("LabelName,DisplayName\n/m/01,Cat\n")
    (tmp_path / "class-descriptions.csv").write_text("/m/01,Dog\n")
    with pytest.raises(PipelineError, match=r"^classes\.csv: line 2: class /m/01 is called 'Dog' elsewhere"):
        openimages.read(tmp_path)
