import math
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import cvat, recognize

Write = Callable[..., Path]
LABELS = "<labels><label><name>cat</name></label><label><name>ant</name></label></labels>"


def written(path: Path, body: str, meta: str = f"<meta><task>{LABELS}</task></meta>") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n'
    path.write_text(f"{head}{meta}\n{body}\n</annotations>")
    return path


def image(shapes: str, name: str = "a.png", more: str = "") -> str:
    return f'<image id="7" name="{name}" width="40" height="30" {more}>{shapes}</image>'


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ('<box label="cat" occluded="1" xtl="1.50" ytl="2.25" xbr="11" ybr="8"/>', (1.5, 2.25, 9.5, 5.75)),
        ('<box label="cat" xtl="1" ytl="2" xbr="11" ybr="8" rotation="90.0"/>', (3, 0, 6, 10)),
        ('<polygon label="cat" points="5.00,2.00;9.50,7.00;1.00,4.00"/>', (1, 2, 8.5, 5)),
        ('<ellipse label="cat" cx="10" cy="10" rx="4" ry="2"/>', (6, 8, 8, 4)),
        ('<ellipse label="cat" cx="10" cy="10" rx="4" ry="2" rotation="270"/>', (8, 6, 4, 8)),
        ('<mask label="cat" rle="0, 12" left="1" top="2" width="3" height="4"/>', (1, 2, 3, 4)),
    ],
)
def test_shapes(tmp_path: Path, picture: Write, shape: str, box: tuple[float, ...]) -> None:
    picture(tmp_path / "images" / "a.png")
    written(tmp_path / "annotations.xml", image(shape))
    assert recognize(tmp_path) == "cvat"
    dataset = cvat.read(tmp_path)
    [record] = dataset.splits["all"].images
    assert (record.file, record.id, record.declared_size) == ("images/a.png", 7, (40, 30))
    [item] = record.objects
    assert (item.class_name, item.issue) == ("cat", None)
    assert item.box == pytest.approx(box, abs=1e-9)
    assert [(category.id, category.name) for category in dataset.categories] == [(1, "cat"), (2, "ant")]


def test_rotated_box_against_its_corners(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    written(tmp_path / "annotations.xml", image('<box label="cat" xtl="10" ytl="12" xbr="20" ybr="16" rotation="30"/>'))
    [item] = cvat.read(tmp_path).splits["all"].images[0].objects
    turned = [
        (15 + x * math.cos(math.pi / 6) - y * math.sin(math.pi / 6), 14 + x * 0.5 + y * math.cos(math.pi / 6))
        for x in (-5, 5)
        for y in (-2, 2)
    ]
    left, top = min(x for x, _ in turned), min(y for _, y in turned)
    assert item.box == pytest.approx((left, top, 2 * (15 - left), 2 * (14 - top)))


def test_attributes(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    flags = ("difficult", "true"), ("Difficult", "1"), ("difficult", "false"), ("is_crowd", "true"), ("color", "true")
    corners = 'label="cat" xtl="1" ytl="2" xbr="3" ybr="4"'
    shapes = "".join(f'<box {corners}><attribute name="{name}">{value}</attribute></box>' for name, value in flags)
    written(tmp_path / "annotations.xml", image(shapes))
    objects = cvat.read(tmp_path).splits["all"].images[0].objects
    assert [(item.difficult, item.iscrowd) for item in objects] == [(1, 0), (1, 0), (0, 0), (0, 1), (0, 0)]


def test_subsets_and_files_are_splits(tmp_path: Path, picture: Write) -> None:
    for split in ("Train", "Validation"):
        picture(tmp_path / "images" / split / "a.png")
    body = "".join(image("", more=f'subset="{split}"') for split in ("Train", "Validation"))
    written(tmp_path / "annotations.xml", body)
    splits = cvat.read(tmp_path).splits
    assert {name: split.images[0].file for name, split in splits.items()} == {
        "Train": "images/Train/a.png",
        "Validation": "images/Validation/a.png",
    }
    (tmp_path / "annotations.xml").unlink()
    for split in ("one", "two"):
        picture(tmp_path / split / "images" / "a.png")
        written(tmp_path / split / "annotations.xml", image("<tag label='cat'/>"))
    splits = cvat.read(tmp_path).splits
    assert {name: split.images[0].file for name, split in splits.items()} == {
        "one": "one/images/a.png",
        "two": "two/images/a.png",
    }
    for split in ("one", "two"):
        (tmp_path / split / "annotations.xml").rename(tmp_path / f"{split}st.xml")
    assert list(cvat.read(tmp_path).splits) == ["onest", "twost"]


def test_tracks_over_frames(tmp_path: Path, picture: Write) -> None:
    for frame in (0, 1, 2, 9):
        picture(tmp_path / "images" / f"frame_{frame:06d}.PNG")
    boxes = "".join(
        f'<box frame="{frame}" outside="{out}" keyframe="1" xtl="{frame}" ytl="2" xbr="12" ybr="8"/>'
        for frame, out in ((0, 0), (1, 1), (2, 0), (3, 0))
    )
    meta = f"<meta><task><size>5</size>{LABELS}</task></meta>"
    written(tmp_path / "annotations.xml", f'<track id="0" label="ant">{boxes}</track>', meta)
    images = cvat.read(tmp_path).splits["all"].images
    assert [image.file for image in images] == [f"images/frame_00000{frame}.PNG" for frame in (0, 1, 2)] + [""]
    assert [[item.box for item in image.objects] for image in images[:3]] == [[(0, 2, 12, 6)], [], [(2, 2, 10, 6)]]
    assert images[0].objects[0].class_name == "ant"
    assert images[3].issue
    assert images[3].issue.code == "missing_image"


def test_video_of_unlimited_length(tmp_path: Path, picture: Write) -> None:
    """Neither the length nor a frame's number determines how much memory is used."""
    picture(tmp_path / "images/frame_000001.png")
    box = f'<box frame="{10**17}" outside="0" xtl="1" ytl="2" xbr="12" ybr="8"/>'
    meta = f"<meta><task><size>999999999</size>{LABELS}</task></meta>"
    written(tmp_path / "annotations.xml", f'<track id="0" label="ant">{box}</track>', meta)
    images = cvat.read(tmp_path).splits["all"].images
    assert [(image.file, len(image.objects)) for image in images] == [("images/frame_000001.png", 0), ("", 1)]


def test_tracks_of_several_tasks_are_refused(tmp_path: Path) -> None:
    written(
        tmp_path / "annotations.xml", '<track id="0" label="cat"/>', "<meta><project><task/><task/></project></meta>"
    )
    with pytest.raises(PipelineError, match=r"^annotations\.xml: tracks of several tasks"):
        cvat.read(tmp_path)


@pytest.mark.parametrize(
    ("shape", "code", "message"),
    [
        ('<points label="cat" points="1,2;3,4"/>', "invalid_record", "<points> has no area"),
        ('<box label="cat" xtl="1" ytl="2" xbr="3"/>', "invalid_record", "<box> has a missing or invalid number"),
        (
            '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="x"/>',
            "invalid_record",
            "<box> has a missing or invalid number",
        ),
        (
            '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4" rotation="inf"/>',
            "invalid_record",
            "<box> has a missing or invalid number",
        ),
        ('<polygon label="cat" points="1,2;3"/>', "invalid_record", "<polygon> has a missing or invalid number"),
        ('<box xtl="1" ytl="2" xbr="3" ybr="4"/>', "invalid_record", "has no label"),
        ('<box label="dog" xtl="1" ytl="2" xbr="3" ybr="4"/>', "unknown_class", "label dog is not in the file's"),
    ],
)
def test_invalid_shapes(tmp_path: Path, picture: Write, shape: str, code: str, message: str) -> None:
    picture(tmp_path / "a.png")
    written(tmp_path / "annotations.xml", image(shape))
    [item] = cvat.read(tmp_path).splits["all"].images[0].objects
    assert item.issue
    assert item.issue.code == code
    assert message in item.issue.message
    assert item.source == "annotations.xml: image a.png: shape 1"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "<annotations><version>1.1</version><image>",
            r"^annotations\.xml: not XML: no element found at line 1 column 43",
        ),
        (
            '<!DOCTYPE a [<!ENTITY b "ha">]><annotations><version>1.1</version>&b;</annotations>',
            r"^annotations\.xml: not read: unsafe XML declarations",
        ),
        ("<annotation><version>1.1</version></annotation>", "no CVAT annotations found"),
        ("<annotations><note>1.1</note></annotations>", "no CVAT annotations found"),
    ],
)
def test_invalid_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "annotations.xml").write_text(content)
    with pytest.raises(PipelineError, match=message):
        cvat.read(tmp_path)
