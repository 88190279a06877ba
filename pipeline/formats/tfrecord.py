"""Reader of TFRecord files of TensorFlow's Object Detection API: records with relative boxes, and label maps.

Formats: https://www.tensorflow.org/tutorials/load_data/tfrecord and
https://github.com/tensorflow/models/blob/master/research/object_detection/g3doc/using_your_own_dataset.md.
The package `tfrecord` provides the messages. Its reader isn't used: it verifies no checksum and trusts damaged lengths.
"""

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import crc32c
from google.protobuf.message import DecodeError

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.classes import collect_class_names, number_categories
from pipeline.formats.dataset_files import list_files
from pipeline.formats.image_index import IMAGE_SUFFIXES, ImageIndex, read_image_size
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, image_record, invalid_image
from pipeline.formats.split_names import name_splits_by_file, name_splits_by_folder
from pipeline.formats.text import show_value

_FILE = re.compile(r"(.+?)\.(tfrecords?|tfrec|record)(-\d+-of-\d+)?(\.gz)?$")
_SHARD = re.compile(r"-\d+-of-\d+$")
_ITEM = re.compile(r"item\s*\{([^{}]*)\}")
_FIELD = re.compile(r"""(\w+)\s*:\s*(?:"([^"]*)"|'([^']*)'|(\d{1,9}))""")
_LONGEST_STEM = 100  # characters of an extracted image's name
_SAMPLE = 50  # records that are searched for a box: the first ones may have no objects
_LONGEST_COMPRESSED = 1 << 28  # bytes of a record in a gzip file, whose length says nothing about its content
_COORDINATES = ("xmin", "ymin", "xmax", "ymax")
Features = dict[str, list[Any]]


@dataclass(frozen=True)
class _LabelMap:
    """A label map; empty if the data set has none."""

    by_id: dict[int, str]  # display names
    by_name: dict[str, str]  # display names by the names that records contain


def _is_record_file(file: PurePosixPath) -> bool:
    """Whether a file has the name of a TFRecord."""
    return _FILE.match(file.name) is not None


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next((file for file in files if _is_record_file(file) and _has_boxes(folder, file)), None)


def read(folder: Path) -> RawDataset:
    """Reads all record files below `folder`; shards of one name are one split.

    The images are files named as in `image/filename`. An image that only its record contains must be extracted before
    by `embedded_images`, otherwise it is an issue. The classes are those of the label map, or the class names of the
    objects if there is none.

    Raises:
        PipelineError: There is no record file, a file is damaged, or label maps differ.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    candidates = list(filter(_is_record_file, files))
    record_folders = {file.parent for file in candidates if _has_boxes(folder, file)}
    # All files of such a folder are read, so that a damaged one is reported.
    record_files = [file for file in candidates if file.parent in record_folders]
    if not record_files:
        raise PipelineError(f"{folder}: no TFRecord with boxes found: a .tfrecord or .record with image/object/bbox")
    labels = _find_label_map(folder, [file for file in files if file.suffix == ".pbtxt"])
    splits: dict[str, list[RawImage]] = {}
    for file, name in _split_names(record_files).items():
        splits.setdefault(name, []).extend(_images(folder, file, labels, images))
    raw_splits = {name: RawSplit(tuple(split)) for name, split in splits.items()}
    return RawDataset(_categories(labels, raw_splits), raw_splits, images.count)


def embedded_images(folder: Path, files: list[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields the images that exist only inside their records: the path of a file for each, and its content.

    The path is that of the record's file with `.images`, the record's number and the image's name, so that records with
    equal names have distinct files.

    Raises:
        PipelineError: A file is damaged.
    """
    images = ImageIndex(files)
    for file in (file for file in files if _is_record_file(file) and _has_boxes(folder, file)):
        for number, record in enumerate(_records(folder, file), 1):
            try:
                features = _features(record)
            except DecodeError:
                continue  # an issue when it is read
            name, content = _name(features), _first_bytes(features, "image/encoded")
            if content and (not name or isinstance(images.find(name, file.parent), Issue)):
                path = _extracted_path(file, number, name, content)
                if not (folder / path).is_file():
                    yield path, content


def _extracted_path(file: PurePosixPath, number: int, name: str, content: bytes) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    suffix = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else _suffix(content)
    stem = re.sub(r"[^\w.-]", "_", path.stem)[:_LONGEST_STEM]
    return file.with_name(f"{file.name}.images") / f"{number:06}{stem and '_'}{stem}{suffix}"


def _suffix(content: bytes) -> str:
    """The suffix for an image's content: TensorFlow's tools encode JPEG or PNG."""
    return ".png" if content.startswith(b"\x89PNG") else ".jpg"


def _split_names(files: list[PurePosixPath]) -> dict[PurePosixPath, str]:
    """Split names by folder if there are several folders, otherwise by file name without the shard's number."""
    by_folder = name_splits_by_folder(sorted({file.parent for file in files}))
    if len(set(by_folder.values())) > 1:
        return {file: by_folder[file.parent] for file in files}
    unsharded = {file: file.with_name(_SHARD.sub("", _FILE.sub(r"\1", file.name))) for file in files}
    by_file = name_splits_by_file({file: file.name for file in unsharded.values()})
    return {file: by_file[path] for file, path in unsharded.items()}


def _has_boxes(folder: Path, file: PurePosixPath) -> bool:
    """Whether the first records are valid, by their checksums, and have boxes."""
    key = f"image/object/bbox/{_COORDINATES[0]}"
    try:
        return any(key in _features(record) for record in islice(_records(folder, file), _SAMPLE))
    except (PipelineError, DecodeError):
        return False


def _records(folder: Path, file: PurePosixPath) -> Iterator[bytes]:
    """Yields the content of each record, of a gzip file as well.

    Raises:
        PipelineError: A checksum is wrong, or the file is truncated or damaged.
    """
    number, size = 1, (folder / file).stat().st_size
    with (folder / file).open("rb") as plain, gzip.GzipFile(fileobj=plain) as unpacked:
        is_gzip = plain.peek(2)[:2] == b"\x1f\x8b"
        try:
            while (record := _read_record(unpacked if is_gzip else plain, None if is_gzip else size)) is not None:
                yield record
                number += 1
        except EOFError:
            raise PipelineError(f"{file}: record {number} is truncated") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise PipelineError(f"{file}: record {number} is damaged: {error}") from None
        except ValueError as error:
            raise PipelineError(f"{file}: record {number} is {error}") from None


def _read_record(stream: BufferedIOBase, size: int | None) -> bytes | None:
    """The next record of a file of `size` bytes, if that is known; None at its end.

    A record is preceded by its length, and each has a checksum.

    Raises:
        ValueError: A checksum is wrong, or the record is truncated.
    """
    header = stream.read(12)
    if not header:
        return None
    length, checksum = struct.unpack("<QI", header) if len(header) == 12 else (0, 0)
    if len(header) < 12 or checksum != _masked_crc(header[:8]):
        raise ValueError("damaged, or no TFRecord: wrong checksum of its length")
    if length + 4 > (_LONGEST_COMPRESSED if size is None else size - stream.tell()):
        raise ValueError("truncated" if size is not None else f"too long for a compressed file: {length:,} bytes")
    record, end = stream.read(length), stream.read(4)
    if len(end) < 4:
        raise ValueError("truncated")
    if struct.unpack("<I", end)[0] != _masked_crc(record):
        raise ValueError("damaged: wrong checksum")
    return record


def _masked_crc(content: bytes) -> int:
    """TFRecord's checksum: CRC-32C, rotated by 15 bits, plus a constant."""
    crc = crc32c.crc32c(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _features(record: bytes) -> Features:
    """The values of a record by key.

    Raises:
        DecodeError: The record isn't a tf.train.Example.
    """
    from tfrecord import example_pb2

    example = example_pb2.Example.FromString(record)
    kinds = {key: (feature, feature.WhichOneof("kind")) for key, feature in example.features.feature.items()}
    return {key: list(getattr(feature, kind).value) if kind else [] for key, (feature, kind) in kinds.items()}


def _images(folder: Path, file: PurePosixPath, labels: _LabelMap, images: ImageIndex) -> Iterator[RawImage]:
    for number, record in enumerate(_records(folder, file), 1):
        try:
            yield _image(folder, file, number, _features(record), labels, images)
        except DecodeError:
            yield invalid_image(f"{file}: record {number}", "not a tf.train.Example")


def _image(
    folder: Path, file: PurePosixPath, number: int, features: Features, labels: _LabelMap, images: ImageIndex
) -> RawImage:
    name = _name(features)
    source = f"{file}: record {number}" + (f" ({show_value(name)})" if name else "")
    path = _find_image(folder, file, number, features, images)
    if isinstance(path, Issue):
        return image_record(source, path)
    # Boxes are relative to the image, so the file's size is used instead of the declared one.
    size = read_image_size(folder / path)
    if isinstance(size, Issue):
        return image_record(source, size)
    objects = _objects(source, features, labels, size)
    if isinstance(objects, Issue):
        return image_record(source, objects)
    return image_record(source, path, None, _declared_size(features), objects)


def _find_image(folder: Path, file: PurePosixPath, number: int, features: Features, images: ImageIndex) -> str | Issue:
    name, content = _name(features), _first_bytes(features, "image/encoded")
    if content and (folder / (extracted := _extracted_path(file, number, name, content))).is_file():
        return str(extracted)
    path = images.find(name, file.parent) if name else Issue("invalid_record", "needs an image/filename or an image")
    if not isinstance(path, Issue) or path.code == "ambiguous_image" or "image/encoded" not in features:
        return path
    if content:
        return Issue("missing_image", "its image exists only inside the record and is not extracted")
    return Issue("missing_image", f"its image is empty (image/encoded), and there is no file {show_value(name)}")


def _objects(
    source: str, features: Features, labels: _LabelMap, size: tuple[int, int]
) -> tuple[RawObject, ...] | Issue:
    coordinates = [features.get(f"image/object/bbox/{name}", []) for name in _COORDINATES]
    count = len(coordinates[0])
    names, ids = (features.get(f"image/object/class/{kind}", []) for kind in ("text", "label"))
    flags = [features.get(f"image/object/{flag}", []) or [0] * count for flag in ("is_crowd", "difficult")]
    if any(len(values) != count for values in (*coordinates, *flags)) or count not in (len(names), len(ids)):
        return Issue("invalid_record", f"the lists of coordinates, classes and flags don't all have length {count}")
    if not all(isinstance(value, (int, float)) for values in (*coordinates, *flags) for value in values):
        return Issue("invalid_record", "the lists of coordinates and flags have values that are not numbers")
    objects = []
    for index in range(count):
        left, top, right, bottom = (values[index] * size[axis % 2] for axis, values in enumerate(coordinates))
        name, id = (values[index] if index < len(values) else None for values in (names, ids))
        class_name = _class_name(name, id, labels)
        crowd, difficult = (int(values[index] != 0) for values in flags)
        objects.append(
            RawObject(
                f"{source}: object {index + 1}",
                "" if isinstance(class_name, Issue) else class_name,
                (left, top, right - left, bottom - top),
                iscrowd=crowd,
                difficult=difficult,
                issue=class_name if isinstance(class_name, Issue) else None,
            )
        )
    return tuple(objects)


def _class_name(name: Any, id: Any, labels: _LabelMap) -> str | Issue:
    """A class's display name, by the name in the record or else by its id in the label map."""
    text = name.decode("utf-8", "replace").strip() if isinstance(name, bytes) else ""
    if not labels.by_id and text:
        return text
    if text in labels.by_name:
        return labels.by_name[text]
    if id in labels.by_id:
        return labels.by_id[id]
    return Issue("unknown_class", f"class {show_value(text or id)} is in no label map (.pbtxt)")


def _name(features: Features) -> str:
    """The image's name; empty if the record has none."""
    names = (_first_bytes(features, key) for key in ("image/filename", "image/source_id"))
    return next((text for name in names if (text := name.decode("utf-8", "replace").strip("\0 \n"))), "")


def _first_bytes(features: Features, key: str) -> bytes:
    values = features.get(key, [])
    return values[0] if values and isinstance(values[0], bytes) else b""


def _declared_size(features: Features) -> tuple[int, int] | None:
    sides = [features.get(f"image/{side}", [None])[:1] for side in ("width", "height")]
    valid = [side[0] for side in sides if side and isinstance(side[0], int) and side[0] > 0]
    return (valid[0], valid[1]) if len(valid) == 2 else None


def _find_label_map(folder: Path, files: list[PurePosixPath]) -> _LabelMap:
    label_maps = {file: label_map for file in files if (label_map := _read_label_map(folder / file)).by_id}
    first = next(iter(label_maps), None)
    for file, label_map in label_maps.items():
        if label_map != label_maps[first or file]:
            raise PipelineError(f"{file}: its classes differ from those of {first}; keep one label map")
    return label_maps[first] if first else _LabelMap({}, {})


def _read_label_map(path: Path) -> _LabelMap:
    items = [_fields(item) for item in _ITEM.findall(path.read_text(encoding="utf-8", errors="replace"))]
    valid = [item for item in items if item.get("id", "").isdigit() and item.get("name", "")]
    by_name = {item["name"]: item.get("display_name") or item["name"] for item in valid}
    return _LabelMap({int(item["id"]): by_name[item["name"]] for item in valid}, by_name)


def _fields(item: str) -> dict[str, str]:
    return {key: double or single or digits for key, double, single, digits in _FIELD.findall(item)}


def _categories(labels: _LabelMap, splits: dict[str, RawSplit]) -> tuple[Category, ...]:
    if labels.by_id:
        return tuple(Category(id, name) for id, name in sorted(labels.by_id.items()))
    return number_categories(sorted(collect_class_names(image for split in splits.values() for image in split.images)))
