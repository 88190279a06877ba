"""TFRecord of TensorFlow's Object Detection API: records with normalized boxes, and label maps.

Formats: https://www.tensorflow.org/tutorials/load_data/tfrecord and
https://github.com/tensorflow/models/blob/master/research/object_detection/g3doc/using_your_own_dataset.md.
The package `tfrecord` has the messages; its reader isn't used, since it compares no checksum and takes a damaged length
for true.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import crc32c
from google.protobuf.message import DecodeError

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.classes import class_names, number_categories
from pipeline.formats.folders import by_folder
from pipeline.formats.image_index import ImageIndex, list_files, read_image_size
from pipeline.formats.naming import show_value, split_names
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit

_FILE = re.compile(r"(.+?)\.(tfrecords?|tfrec|record)(-\d+-of-\d+)?$")
_SHARD = re.compile(r"-\d+-of-\d+$")
_ITEM = re.compile(r"item\s*\{([^{}]*)\}")
_FIELD = re.compile(r"""(\w+)\s*:\s*(?:"([^"]*)"|'([^']*)'|(\d{1,9}))""")
_SAMPLE = 50  # records to look into for a box: the first may be of images without objects
_SIDES = ("xmin", "ymin", "xmax", "ymax")
Features = dict[str, list[Any]]


@dataclass(frozen=True)
class _Labels:
    """A label map; empty where there is none."""

    names: dict[int, str]  # by id, as people read them
    texts: dict[str, str]  # by what records write


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next((file for file in files if _FILE.match(file.name) and _shows(folder, file)), None)


def read(folder: Path) -> RawDataset:
    """Reads every record file below `folder`; shards of one name are one split.

    The images must lie beside them as files, called as `image/filename` says: a picture that a record alone holds is
    a fault. The classes are the label map's; without one, what objects are called.

    Raises:
        PipelineError: there is no record file, one is damaged, or label maps differ.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    named = [file for file in files if _FILE.match(file.name)]
    rooms = {file.parent for file in named if _shows(folder, file)}
    records = [file for file in named if file.parent in rooms]  # a damaged one among records is one too
    if not records:
        raise PipelineError(f"{folder}: no TFRecord of detection found: a .tfrecord or .record with image/object/bbox")
    labels = _label_map(folder, [file for file in files if file.suffix == ".pbtxt"])
    splits: dict[str, list[RawImage]] = {}
    for file, name in _split_names(records).items():
        splits.setdefault(name, []).extend(_images(folder, file, labels, images))
    found = {name: RawSplit(tuple(items)) for name, items in splits.items()}
    return RawDataset(_categories(labels, found), found, images.count)


def _split_names(files: list[PurePosixPath]) -> dict[PurePosixPath, str]:
    """By folder where there are several, else by the name before the shard's number."""
    folders = by_folder(sorted({file.parent for file in files}))
    if len(set(folders.values())) > 1:
        return {file: folders[file.parent] for file in files}
    whole = {file: file.with_name(_SHARD.sub("", _FILE.sub(r"\1", file.name))) for file in files}
    names = split_names({file: file.name for file in whole.values()})
    return {file: names[one] for file, one in whole.items()}


def _shows(folder: Path, file: PurePosixPath) -> bool:
    """Whether the first records have boxes; their checksums make it sure that they are records."""
    try:
        return any(_SIDES_KEY in _features(record) for record in islice(_records(folder, file), _SAMPLE))
    except (PipelineError, DecodeError):
        return False


_SIDES_KEY = "image/object/bbox/xmin"


def _records(folder: Path, file: PurePosixPath) -> Iterator[bytes]:
    """The records' bytes: length, its checksum, the record, its checksum.

    Raises:
        PipelineError: a checksum is wrong, or the file ends too early.
    """
    path = folder / file
    left = path.stat().st_size
    with path.open("rb") as stream:
        number = 0
        while head := stream.read(12):
            number += 1
            left -= 12
            length, checksum = struct.unpack("<QI", head) if len(head) == 12 else (0, 0)
            if len(head) < 12 or checksum != _masked(head[:8]):
                raise PipelineError(f"{file}: record {number} is damaged or no TFRecord's: its length's checksum")
            if length + 4 > left:
                raise PipelineError(f"{file}: record {number} is cut short: the file ends too early")
            record = stream.read(length)
            if struct.unpack("<I", stream.read(4))[0] != _masked(record):
                raise PipelineError(f"{file}: record {number} is damaged: its checksum is wrong")
            left -= length + 4
            yield record


def _masked(content: bytes) -> int:
    """TFRecord's checksum: CRC-32C, turned by fifteen bits and shifted by a constant."""
    crc = crc32c.crc32c(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _features(record: bytes) -> Features:
    """The values by key.

    Raises:
        DecodeError: the bytes are no Example.
    """
    from tfrecord import example_pb2

    example = example_pb2.Example.FromString(record)
    kinds = {key: (feature, feature.WhichOneof("kind")) for key, feature in example.features.feature.items()}
    return {key: list(getattr(feature, kind).value) if kind else [] for key, (feature, kind) in kinds.items()}


def _images(folder: Path, file: PurePosixPath, labels: _Labels, images: ImageIndex) -> Iterator[RawImage]:
    for number, record in enumerate(_records(folder, file), 1):
        source = f"{file}: record {number}"
        try:
            yield _image(folder, file, source, _features(record), labels, images)
        except DecodeError:
            yield RawImage(source, "", issue=Issue("invalid_record", "it is no tf.train.Example"))


def _image(
    folder: Path, file: PurePosixPath, source: str, features: Features, labels: _Labels, images: ImageIndex
) -> RawImage:
    name = _text(features, "image/filename") or _text(features, "image/source_id")
    if not name:
        return RawImage(source, "", issue=Issue("invalid_record", "it needs an image/filename"))
    source = f"{source} ({show_value(name)})"
    path = images.find(name, file.parent)
    if isinstance(path, Issue):
        inside = path.code == "missing_image" and features.get("image/encoded")
        message = f"its image {show_value(name)} is inside the record only; unpack the pictures into files beside it"
        return RawImage(source, "", issue=Issue("missing_image", message) if inside else path)
    # Boxes are shares of the picture, so the file's own size counts, whatever the record declares.
    pixels = read_image_size(folder / path)
    if isinstance(pixels, Issue):
        return RawImage(source, "", issue=pixels)
    objects = _objects(source, features, labels, pixels)
    if isinstance(objects, Issue):
        return RawImage(source, "", issue=objects)
    return RawImage(source, path, None, _declared(features), objects)


def _objects(
    source: str, features: Features, labels: _Labels, pixels: tuple[int, int]
) -> tuple[RawObject, ...] | Issue:
    sides = [features.get(f"image/object/bbox/{side}", []) for side in _SIDES]
    count = len(sides[0])
    texts, ids = (features.get(f"image/object/class/{kind}", []) for kind in ("text", "label"))
    flags = [features.get(f"image/object/{flag}", []) or [0] * count for flag in ("is_crowd", "difficult")]
    if any(len(values) != count for values in (*sides, *flags)) or count not in (len(texts), len(ids)):
        return Issue("invalid_record", f"its lists of sides, classes and flags are not all {count} long")
    if not all(isinstance(value, (int, float)) for values in (*sides, *flags) for value in values):
        return Issue("invalid_record", "its lists of sides and flags are no numbers")
    objects = []
    for place in range(count):
        left, top, right, bottom = (values[place] * pixels[axis % 2] for axis, values in enumerate(sides))
        box = (left, top, right - left, bottom - top)
        own_text, own_id = (values[place] if place < len(values) else None for values in (texts, ids))
        name = _name(own_text, own_id, labels)
        crowd, difficult = (int(values[place] != 0) for values in flags)
        issue = name if isinstance(name, Issue) else None
        said = "" if isinstance(name, Issue) else name
        objects.append(
            RawObject(f"{source}: object {place + 1}", said, box, iscrowd=crowd, difficult=difficult, issue=issue)
        )
    return tuple(objects)


def _name(text: Any, number: Any, labels: _Labels) -> str | Issue:
    """A class's name: by its text, else by its number in the label map."""
    said = text.decode("utf-8", "replace").strip() if isinstance(text, bytes) else ""
    if not labels.names and said:
        return said
    if said in labels.texts:
        return labels.texts[said]
    if number in labels.names:
        return labels.names[number]
    return Issue("unknown_class", f"its class {show_value(said or number)} is in no label map (.pbtxt)")


def _text(features: Features, key: str) -> str:
    values = features.get(key, [])
    return values[0].decode("utf-8", "replace").strip("\0 \n") if values and isinstance(values[0], bytes) else ""


def _declared(features: Features) -> tuple[int, int] | None:
    sides = [features.get(f"image/{side}", [None])[:1] for side in ("width", "height")]
    whole = [side[0] for side in sides if side and isinstance(side[0], int) and side[0] > 0]
    return (whole[0], whole[1]) if len(whole) == 2 else None


def _label_map(folder: Path, files: list[PurePosixPath]) -> _Labels:
    found = {file: labels for file in files if (labels := _read_map(folder / file)).names}
    for file, labels in found.items():
        first = next(iter(found))
        if labels != found[first]:
            raise PipelineError(f"{file}: its classes are not those of {first}; keep one label map")
    return next(iter(found.values()), _Labels({}, {}))


def _read_map(path: Path) -> _Labels:
    items = [_fields(item) for item in _ITEM.findall(path.read_text(encoding="utf-8", errors="replace"))]
    named = [item for item in items if item.get("id", "").isdigit() and item.get("name", "")]
    shown = {item["name"]: item.get("display_name") or item["name"] for item in named}
    return _Labels({int(item["id"]): shown[item["name"]] for item in named}, shown)


def _fields(item: str) -> dict[str, str]:
    return {key: double or single or digits for key, double, single, digits in _FIELD.findall(item)}


def _categories(labels: _Labels, splits: dict[str, RawSplit]) -> tuple[Category, ...]:
    if labels.names:
        return tuple(Category(number, name) for number, name in sorted(labels.names.items()))
    return number_categories(sorted(class_names(image for split in splits.values() for image in split.images)))
