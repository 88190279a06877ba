"""Random file contents give a one-line error, or records with issues."""

import json
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tfrecord import example_pb2

from pipeline.errors import PipelineError
from pipeline.formats import cvat, kitti, labelme, recognize, tfrecord, yolo
from pipeline.formats.records import RawDataset
from pipeline.params import CheckParams
from tests.support.tfrecords import framed

READERS = {"cvat": cvat, "kitti": kitti, "labelme": labelme, "tfrecord": tfrecord, "yolo": yolo}
CODES = set(CheckParams.__dataclass_fields__)
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

words = st.sampled_from(["0", "1", "-1", "0.5", "nan", "inf", "1e400", "cat", "", "'", "999999999999", "½", "\ud7ff"])
plain = st.text(max_size=8) | words


def read(format: str, **files: bytes) -> RawDataset | None:
    """The records of these files beside an image a.png; None if the reader refuses them with one line."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        Image.new("RGB", (40, 30)).save(folder / "a.png")
        for name, content in files.items():
            (folder / name.replace("__", ".")).write_bytes(content)
        try:
            recognize(folder)
        except PipelineError as error:
            check_message(str(error))
        try:
            return READERS[format].read(folder)
        except PipelineError as error:
            check_message(str(error))
            return None


def check_message(message: str) -> None:
    assert len(message.splitlines()) == 1
    message.encode()


def check(dataset: RawDataset | None) -> None:
    """Each record has an issue with a known code and one line, or a class and a box."""
    for split in dataset.splits.values() if dataset else ():
        for record in (*split.images, *(one for image in split.images for one in image.objects)):
            check_message(record.source)
            if record.issue is not None:
                assert record.issue.code in CODES
                check_message(record.issue.message)
        for image in split.images:
            assert image.issue or image.file == "a.png"
            for one in image.objects:
                assert one.issue or one.class_name
                assert len(one.box) == 4
                assert all(isinstance(side, (int, float)) for side in one.box)


@quick
@given(st.lists(st.lists(words, max_size=9).map(" ".join), max_size=4), st.binary(max_size=20), plain, plain)
def test_yolo(rows: list[str], tail: bytes, name: str, entry: str) -> None:
    labels = "\n".join(rows).encode() + tail
    check(read("yolo", a__txt=labels, classes__txt=b"ant\ncat\n"))
    manifest = json.dumps({"train": [".", entry], "names": ["ant", name]}).encode()
    check(read("yolo", a__txt=labels, data__yaml=manifest))
    check(read("yolo", a__txt=labels, data__yaml=manifest[:-1] + tail))
    check(read("yolo", data__yaml=b"train: .\nnames: [a]\n" + tail))


@quick
@given(st.lists(words, min_size=14, max_size=16), st.binary(max_size=20))
def test_kitti(columns: list[str], tail: bytes) -> None:
    good = "Car 0 0 0 1 2 3 4 0 0 0 0 0 0 0"
    check(read("kitti", a__txt=f"{good}\n{' '.join(columns)}\n".encode() + tail))


jsons = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
points = st.lists(st.lists(st.floats() | st.integers(), min_size=2, max_size=2), max_size=5) | jsons
kinds = st.sampled_from(["rectangle", "circle", "polygon", "line", None, ["a"], 10**400])
shapes = st.fixed_dictionaries(
    {"label": jsons | st.just("cat"), "points": points, "shape_type": kinds}, optional={"flags": jsons}
)


@quick
@given(st.lists(shapes | jsons, max_size=3) | jsons, jsons | st.just("a.png"), jsons, st.binary(max_size=9))
def test_labelme(shapes: object, path: object, size: object, tail: bytes) -> None:
    content = json.dumps({"shapes": shapes, "imagePath": path, "imageWidth": size, "imageHeight": 30})
    check(read("labelme", a__json=content.encode()))
    check(read("labelme", a__json=content[:-2].encode() + tail))


# Characters that XML can't hold are another matter: `tail` breaks the file.
values = (
    st.text(st.characters(exclude_categories=["C"], exclude_characters='<>&"'), max_size=8) | words | st.just("a&#10;b")
)
shape_tags = st.sampled_from(["box", "polygon", "ellipse", "mask", "points", "cuboid"])
SIDES = (
    "xtl",
    "ytl",
    "xbr",
    "ybr",
    "rotation",
    "points",
    "cx",
    "cy",
    "rx",
    "ry",
    "left",
    "top",
    "width",
    "height",
    "frame",
)


def attributes(row: list[str]) -> str:
    return " ".join(f'{side}="{said}"' for side, said in zip(SIDES, row, strict=True))


@quick
@given(
    st.lists(st.tuples(shape_tags, st.lists(values, min_size=15, max_size=15)), max_size=3),
    values,
    st.binary(max_size=9),
)
def test_cvat(drawn: list[tuple[str, list[str]]], value: str, tail: bytes) -> None:
    shapes = "".join(f'<{tag} label="cat" {attributes(row)}/>' for tag, row in drawn)
    images = f'<image id="{value}" name="a.png" width="{value}" height="1" subset="{value}">{shapes}</image>'
    tracks = f'<track id="{value}" label="cat">{shapes}</track>'
    for body in (images, tracks):
        content = f"<annotations><version>1.1</version><meta><size>{value}</size></meta>{body}</annotations>".encode()
        check(read("cvat", a__xml=content))
        check(read("cvat", a__xml=content[:-20] + tail))


KEYS = [
    f"image/object/{rest}"
    for rest in ("bbox/xmin", "bbox/ymin", "bbox/xmax", "bbox/ymax", "class/text", "class/label", "difficult")
]
lists = (
    st.lists(st.binary(max_size=3), max_size=2)
    | st.lists(st.floats(width=32), max_size=2)
    | st.lists(st.integers(-9, 9), max_size=2)
)


@quick
@given(
    st.dictionaries(st.sampled_from([*KEYS, "image/width"]), lists, max_size=8),
    st.binary(max_size=30),
    st.integers(0, 200),
)
def test_tfrecord(features: dict[str, list[object]], tail: bytes, cut: int) -> None:
    example = example_pb2.Example()
    kinds = {bytes: "bytes_list", float: "float_list", int: "int64_list"}
    for key, found in {"image/filename": [b"a.png"], KEYS[0]: [0.5], **features}.items():
        if found:
            getattr(example.features.feature[key], kinds[type(found[0])]).value.extend(found)
    content = framed(example.SerializeToString())
    check(read("tfrecord", a__record=content))
    check(read("tfrecord", a__record=content + framed(tail)))
    check(read("tfrecord", a__record=content[:cut] + tail + content[cut:], a__pbtxt=tail))
