"""MOTChallenge: frames and coordinates are counted from 1."""

from collections.abc import Callable
from pathlib import Path

from pipeline.formats import mot, recognize

Write = Callable[..., Path]


def sequence(folder: Path, picture: Write, lines: str, frames: str = "img1") -> None:
    for number in (1, 2, 3):
        picture(folder / frames / f"00000{number}.png")
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text(lines)


def test_sequences_of_a_split(tmp_path: Path, picture: Write) -> None:
    """Two sequences with equal names of frames; a frame without objects."""
    lines = "1,1,2,3.5,10,20,1,1,0.9\n3,1,2,3,10,20,0,8,1\n1,2,1,1,5,5,1,3,0.5\n"
    sequence(tmp_path / "MOT17/train/MOT17-02", picture, lines)
    sequence(tmp_path / "MOT17/train/MOT17-04", picture, lines, "frames")
    (tmp_path / "MOT17/train/MOT17-04/seqinfo.ini").write_text("[Sequence]\nname=MOT17-04\nimDir=frames\nimExt=.png\n")
    assert recognize(tmp_path) == "mot"
    dataset = mot.read(tmp_path)
    assert [category.name for category in dataset.categories] == ["pedestrian", "car", "distractor"]
    images = dataset.splits["train"].images
    assert [image.file for image in images] == [
        f"MOT17/train/{place}/00000{number}.png"
        for place in ("MOT17-02/img1", "MOT17-04/frames")
        for number in (1, 2, 3)
    ]
    assert [(item.class_name, item.box, item.difficult) for item in images[0].objects] == [
        ("pedestrian", (1, 2.5, 10, 20), 0),
        ("car", (0, 0, 5, 5), 0),
    ]
    assert images[1].objects == ()
    assert [(item.class_name, item.difficult) for item in images[2].objects] == [("distractor", 1)]
    assert images[0].objects[1].source == "MOT17/train/MOT17-02/gt/gt.txt: line 3"


def test_mot15_and_class_names_of_cvat(tmp_path: Path, picture: Write) -> None:
    sequence(tmp_path / "a", picture, "1,1,2,3,10,20,1,-1,-1,-1\n")
    sequence(tmp_path / "b", picture, "2,1,2,3,10,20,1,2,1\n")
    (tmp_path / "b/gt/labels.txt").write_text("cat\ndog\n")
    dataset = mot.read(tmp_path)
    names = {image.file: [item.class_name for item in image.objects] for image in dataset.splits["all"].images}
    assert {file: found for file, found in names.items() if found} == {
        "a/img1/000001.png": ["pedestrian"],
        "b/img1/000002.png": ["dog"],
    }


def test_invalid_lines(tmp_path: Path, picture: Write) -> None:
    sequence(
        tmp_path, picture, "1,1,2,3,10,20,1,1,1\nx,1,2,3,4,5,1,1,1\n9,1,2,3,4,5,1,1,1\n2,1,2,3,4\n3,1,2,3,4,5,1,14,1\n"
    )
    images = mot.read(tmp_path).splits["all"].images
    assert [(image.source, image.issue.code, image.issue.message) for image in images if image.issue] == [
        ("gt/gt.txt: line 2", "invalid_record", "frame x is not a number"),
        ("gt/gt.txt: line 3", "missing_image", "the image of frame 9 is not found"),
    ]
    issues = [item.issue for image in images for item in image.objects if item.issue]
    assert [issue.message for issue in issues] == [
        "x, y, width, height are ['2', '3', '4'], not four numbers",
        "class 14 is none of 1 to 13",
    ]
