from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import kitti, recognize

Write = Callable[..., Path]
CAR = "Car 0.00 0 -1.58 10.50 5.25 30.00 20.75 1.65 1.67 3.64 -0.65 1.71 46.70 -1.59"
REGION = "DontCare -1 -1 -10 1.00 2.00 9.00 8.00 -1 -1 -1 -1000 -1000 -1000 -10"


@pytest.fixture
def kit(tmp_path: Path, picture: Write) -> Path:
    """KITTI's own layout: two cameras with the same names, and test images without labels."""
    for stem in ("000000", "000001", "000002"):
        for camera in ("image_2", "image_3"):
            picture(tmp_path / "training" / camera / f"{stem}.png")
        picture(tmp_path / "testing" / "image_2" / f"{stem}.png")
    labels = tmp_path / "training" / "label_2"
    labels.mkdir()
    (labels / "000000.txt").write_text("")
    (labels / "000001.txt").write_text(f"{CAR}\n{REGION}\n")
    (labels / "000002.txt").write_text(CAR.replace("Car", "Cyclist") + "\n")
    return tmp_path


def test_official_layout(kit: Path) -> None:
    assert recognize(kit) == "kitti"
    dataset = kitti.read(kit)
    assert [(category.id, category.name) for category in dataset.categories] == [(1, "Car"), (2, "Cyclist")]
    empty, first, _ = dataset.splits["all"].images
    assert [image.file for image in (empty, first)] == [f"training/image_2/00000{number}.png" for number in (0, 1)]
    assert empty.objects == ()
    assert first.objects[0].box == (10.5, 5.25, 19.5, 15.5)
    assert first.objects[0].source == "training/label_2/000001.txt: object 1"


def test_dont_care_region_is_a_crowd_of_any_class(kit: Path) -> None:
    objects = kitti.read(kit).splits["all"].images[1].objects
    [region] = objects[1:]
    assert (region.class_name, region.iscrowd, region.any_class, region.box) == ("", 1, True, (1, 2, 8, 6))


def test_lists_are_splits(kit: Path) -> None:
    lists = kit / "ImageSets"
    lists.mkdir()
    (lists / "train.txt").write_text("000002\n000000\n")
    (lists / "val.txt").write_text("000001\n000009\n")
    (lists / "test.txt").write_text("000000\n")  # of testing/
    splits = kitti.read(kit).splits
    assert {name: [image.file[-5:-4] for image in split.images] for name, split in splits.items()} == {
        "train": ["2", "0"],
        "val": ["1", ""],
    }
    lost = splits["val"].images[1]
    assert lost.issue
    assert (lost.issue.code, lost.source) == ("missing_annotation", "ImageSets/val.txt: 000009")


def test_folders_are_splits_and_other_classes_are_sorted(tmp_path: Path, picture: Write) -> None:
    for split, name in (("train", "zebra"), ("val", "Car")):
        picture(tmp_path / split / "images" / "a.jpg")
        (tmp_path / split / "labels").mkdir()
        (tmp_path / split / "labels" / "a.txt").write_text(CAR.replace("Car", name))
    dataset = kitti.read(tmp_path)
    assert list(dataset.splits) == ["train", "val"]
    assert [category.name for category in dataset.categories] == ["Car", "zebra"]


def test_invalid_records(kit: Path) -> None:
    labels = kit / "training" / "label_2"
    (labels / "000001.txt").write_text(f"{CAR}\nCar 1 2 3\n{CAR.replace('5.25', 'x')}\n{CAR} 0.9\n")
    (labels / "000002.txt").write_bytes(b"\xff\xfe")
    (labels / "000003.txt").write_text(CAR)
    _, first, binary, lost = kitti.read(kit).splits["all"].images
    assert [one.issue and one.issue.message for one in first.objects] == [
        None,
        "has 4 columns, not 15",
        "left, top, right, bottom are 10.50 x 30.00 20.75, not four numbers",
        "has 16 columns, not 15",
    ]
    assert binary.issue
    assert binary.issue.code == "invalid_record"
    assert lost.issue
    assert lost.issue.code == "missing_image"


@pytest.mark.parametrize(
    "line", ["a b c", "0 0.5 0.5 0.2 0.2", f"{CAR} 0.97", CAR.replace("Car", "7"), CAR.replace(" 0 ", " 12 ", 1)]
)
def test_other_text_is_not_recognized(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.txt").write_text(line)
    assert kitti.find_evidence(tmp_path, [PurePosixPath("a.txt")]) is None
    with pytest.raises(PipelineError, match="no KITTI labels found"):
        kitti.read(tmp_path)
