"""The lines of YOLO's label files: boxes, polygons, keypoints."""

from pathlib import Path

import pytest

from pipeline.formats import yolo
from tests.support.yolo_files import BOX, LINE, Write, texts, yaml


@pytest.mark.parametrize(
    ("line", "box"),
    [
        ("0 0.25 0.2 0.5 0.2 0.5 0.6", (10, 6, 10, 12)),
        ("0 0.25 0.2 0.5 0.2 0.5 0.6 0.25 0.6", (10, 6, 10, 12)),
        ("0.0 5e-1 .5 1 1", (0, 0, 40, 30)),
    ],
)
def test_polygons_and_numbers(coco8: Path, line: str, box: tuple[float, ...]) -> None:
    texts(coco8, labels__train__a=line)
    [found] = yolo.read(coco8).splits["train"].images[0].objects
    assert (found.class_name, found.issue) == ("ant", None)
    assert found.box == pytest.approx(box)


def test_keypoints_are_not_a_polygon(coco8: Path) -> None:
    yaml(coco8, "train: images/train\nnames: [ant, cat]\nkpt_shape: [2, 3]\n")
    texts(coco8, labels__train__a="1 0.5 0.5 0.25 0.2 0.1 0.1 2 0.9 0.9 1\n1 0.1 0.1 0.2 0.2 0.3 0.3\n")
    good, bad = yolo.read(coco8).splits["train"].images[0].objects
    assert good.box == pytest.approx(BOX)
    assert bad.issue


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("0 0.5 0.5 0.2", "invalid_record"),
        ("0 0.5 0.5 0.2 0.2 0.97", "invalid_record"),  # a detection with its score
        ("ant 0.5 0.5 0.2 0.2", "invalid_record"),
        ("0 0.5 0.5 0.2 0,2", "invalid_record"),
        ("2 0.5 0.5 0.2 0.2", "unknown_class"),
        ("-1 0.5 0.5 0.2 0.2", "unknown_class"),
        ("0.5 0.5 0.5 0.2 0.2", "unknown_class"),
        ("nan 0.5 0.5 0.2 0.2", "unknown_class"),
    ],
)
def test_invalid_lines(coco8: Path, line: str, code: str) -> None:
    texts(coco8, labels__train__a=f"{LINE}{line}\n")
    good, bad = yolo.read(coco8).splits["train"].images[0].objects
    assert good.issue is None
    assert bad.issue
    assert bad.issue.code == code


KEYPOINTS = "0.4 0.45 0.6 0.55 0 0"  # in the box, and one that isn't labeled
FLAGGED = "0.4 0.45 2 0.6 0.55 1"
DIAMOND = "0.5 0.3 0.75 0.5 0.5 0.7 0.25 0.5"


@pytest.mark.parametrize(
    ("line", "box", "remark"),
    [
        (f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}", BOX, "a box and 6 numbers of keypoints"),
        (f"1 0.5 0.5 0.25 0.2 {FLAGGED}", BOX, "a box and 6 numbers of keypoints"),
        ("1 0.5 0.5 0.25 0.2 0.4 0.45 2", BOX, "a box and 3 numbers of keypoints"),
        ("1 0.5 0.5 0.25 0.2 0.45 0.55 0.55 0.45", BOX, "a box and 4 numbers of keypoints"),
        ("1 0.5 0.5 0.5 0.8 0.4 0.2 0.6 0.2 0.4 0.8 0.6 0.8", (10, 3, 20, 24), "a box and 8 numbers of keypoints"),
        (f"1 {DIAMOND}", (10, 9, 20, 12), "read as the upright boxes around them"),
        ("1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2", (4, 3, 4, 3), "read as the upright boxes around them"),
        (
            "1 0.5 0.4 0.6 0.4 0.5 0.5 0.6 0.5",
            (20, 12, 4, 3),
            "read as the upright boxes around them",
        ),  # rows of corners
        ("1 0.5 0.4 0.6 0.5 0.55 0.6 0.5 0.7 0.4 0.6", (16, 12, 8, 9), None),  # a polygon of five corners
    ],
)
def test_keypoints_and_polygons_without_kpt_shape(
    tmp_path: Path, picture: Write, line: str, box: tuple[float, ...], remark: str | None
) -> None:
    picture(tmp_path / "images" / "a.png")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    texts(tmp_path, labels__a=f"{line}\n" * 3)
    dataset = yolo.read(tmp_path)
    assert [item.box for item in dataset.splits["train"].images[0].objects] == [pytest.approx(box)] * 3
    assert [remark in found for found in dataset.remarks] == ([True] if remark else [])


def test_advice_for_polygons_taken_for_keypoints(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "images" / "a.png")
    texts(tmp_path, labels__a=f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}\n")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    assert "add kpt_shape: [0, 2] to data.yaml" in yolo.read(tmp_path).remarks[0]
    yaml(tmp_path, "train: images\nnames: [ant, cat]\nkpt_shape: [0, 2]\n")
    dataset = yolo.read(tmp_path)
    assert dataset.splits["train"].images[0].objects[0].box == pytest.approx((0, 0, 24, 16.5))
    assert dataset.remarks == ()


@pytest.mark.parametrize(
    ("line", "box"),
    [
        (LINE, BOX),  # a box alone is among lines with keypoints
        ("1 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n", (0, 0, 24, 16.5)),  # another number of points: all are polygons
    ],
)
def test_lines_of_two_lengths(tmp_path: Path, picture: Write, line: str, box: tuple[float, ...]) -> None:
    picture(tmp_path / "images" / "a.png")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    texts(tmp_path, labels__a=f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}\n{line}")
    dataset = yolo.read(tmp_path)
    assert dataset.splits["train"].images[0].objects[0].box == pytest.approx(box)
    assert len(dataset.remarks) == int(box == BOX)


def test_a_few_polygons_among_boxes_are_polygons(tmp_path: Path, picture: Write) -> None:
    """Roboflow writes a polygon that was drawn as such, even if its numbers could be a box and keypoints."""
    picture(tmp_path / "images" / "a.png")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    texts(tmp_path, labels__a=f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}\n" + LINE * 2)
    dataset = yolo.read(tmp_path)
    assert dataset.splits["train"].images[0].objects[0].box == pytest.approx((0, 0, 24, 16.5))
    assert dataset.remarks == ()


def test_a_damaged_line_among_lines_with_keypoints(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "images" / "a.png")
    yaml(tmp_path, "train: images\nnames: [ant, cat]\n")
    texts(tmp_path, labels__a=f"1 0.5 0.5 0.25 0.2 {KEYPOINTS}\n" * 30 + "1 0.5 0.5 0.25 0.2 0.1 0.1\n")
    *objects, damaged = yolo.read(tmp_path).splits["train"].images[0].objects
    assert [item.box for item in objects] == [pytest.approx(BOX)] * 30
    assert damaged.issue
    assert damaged.issue.code == "invalid_record"
