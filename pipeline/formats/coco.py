"""Reader of COCO instance annotations: COCO's own folders, Roboflow's, or single files.

Format: https://cocodataset.org/#format-data. Most of such a file are segmentations and other fields that the pipeline
doesn't use: msgspec parses the file without creating objects for them. If msgspec refuses a file (NaN, unpaired
surrogates, a record that isn't an object), the standard JSON reader parses it, or reports the error with its line. Both
return the same records.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.files import parse_json, to_utf8
from pipeline.formats.classes import join_class_lists
from pipeline.formats.dataset_files import list_files, read_head, read_tail, refuse_empty_splits
from pipeline.formats.image_index import ImageIndex
from pipeline.formats.records import (
    Box,
    Issue,
    RawDataset,
    RawImage,
    RawObject,
    RawSplit,
    image_record,
    invalid_image,
    invalid_object,
)
from pipeline.formats.split_names import name_splits_by_file
from pipeline.formats.text import is_utf8, show_value

_SNIFFED_BYTES = 1 << 16  # at both ends of a file: its first or last list must begin there
_PARSED_BYTES = 1 << 26  # a smaller file that may be a COCO file is parsed to find out
_LIST = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_OWN_LIST = re.compile(rb'"(images|annotations)"\s*:\s*\[')  # many tools have a list of categories
_SCORE = re.compile(rb'"score"\s*:')
_BBOX = re.compile(rb'"bbox"\s*:')
# Other kinds of annotations in COCO's form: what tells them, and how to get boxes.
_OTHER_KINDS = (
    (
        re.compile(rb'"segments_info"\s*:'),
        "panoptic annotations: segments of whole images, not objects",
        "panopticapi's converters/panoptic2detection_coco_format.py makes instances of them",
    ),
    (re.compile(rb'"caption"\s*:\s*"'), "captions of whole images, without objects", ""),
    (re.compile(rb'"keypoints"\s*:\s*\[\s*[-\d]'), "keypoints without a bbox", "export them with boxes"),
)
_LARGEST_ID = 2**53  # larger integers aren't exact in every JSON reader


class _Category(msgspec.Struct, gc=False):
    id: Any = UNSET
    name: Any = None


class _Image(msgspec.Struct, gc=False):
    id: Any = UNSET
    file_name: Any = None
    width: Any = None
    height: Any = None


class _Annotation(msgspec.Struct, gc=False):
    id: Any = UNSET
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    area: Any = None
    iscrowd: Any = None
    difficult: Any = None


_Record = TypeVar("_Record", _Category, _Image, _Annotation)


class MissingListError(PipelineError):
    """A JSON file lacks a list that an instance file must have."""


class InstanceFile(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next(iter(_annotation_files(folder, files)), None)


def read(folder: Path) -> RawDataset:
    """Reads all instance files below `folder`, each as a split.

    The files may number the same classes differently, or list only some of them.

    Raises:
        PipelineError: A file isn't JSON, lacks a list, or has annotations of another kind, such as captions; or a file
            named like a split is empty.
    """
    files = list_files(folder)
    refuse_empty_splits(folder, files, ".json")
    images = ImageIndex(files)
    annotation_files = _annotation_files(folder, files)
    if not annotation_files:
        raise PipelineError(f"{folder}: no COCO instance file found: a .json with images, annotations and categories")
    split_names = name_splits_by_file({file: file.stem.removeprefix("instances_") for file in annotation_files})
    splits: dict[str, RawSplit] = {}
    categories: dict[PurePosixPath, tuple[Category, ...]] = {}
    for file in annotation_files:
        try:
            content = _read_file(folder, file)
        except MissingListError:
            _refuse_other_kind(folder, file)
            raise
        if content.annotations and all(record.bbox is None for record in content.annotations):
            _refuse_other_kind(folder, file)
        categories[file], class_names = _categories(file, content.categories)
        splits[split_names[file]] = _split(file, split_names[file], content, class_names, images)
    joined, issues = join_class_lists(categories)
    return RawDataset(joined, splits, images.count, issues=issues)


def _annotation_files(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    """The instance files. COCO's own folder also has files of keypoints and captions for the same images.

    Files with detections, recognized by a score, and of other kinds are left out unless there are no other files.
    """
    ends = {file: both for file in files if file.suffix.lower() == ".json" and (both := _read_ends(folder / file))}
    official = {file.parent for file in ends if file.name.startswith("instances_")}
    instances = [file for file in ends if file.parent not in official or file.name.startswith("instances_")]
    instances = [file for file in instances if not _is_other(file, ends[file])] or instances
    return [file for file in instances if not _SCORE.search(ends[file])] or instances


def _read_ends(path: Path) -> bytes:
    """Both ends of a JSON file that may be a COCO file; empty for any other file."""
    start = to_utf8(read_head(path, _SNIFFED_BYTES))
    if not start.lstrip().startswith(b"{"):
        return b""
    ends = start if path.stat().st_size <= _SNIFFED_BYTES else start + read_tail(path, _SNIFFED_BYTES)
    if not _LIST.search(ends) or (path.stat().st_size <= _PARSED_BYTES and not _has_own_lists(path)):
        return b""
    return ends


def _has_own_lists(path: Path) -> bool:
    """Whether a file has a list of images or annotations at its top level; if it isn't JSON, whether it seems to."""
    content = to_utf8(path.read_bytes())
    try:
        parsed = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return bool(_OWN_LIST.search(content))
    lists = (bytes(parsed[name]) for name in ("images", "annotations") if name in parsed)
    return any(content[:1] == b"[" and content[1:].lstrip()[:1] != b'"' for content in lists)


def _is_other(file: PurePosixPath, ends: bytes) -> bool:
    """Whether a file has annotations of another kind, or only lists the images of COCO's test split."""
    if file.name.startswith("image_info"):
        return True
    return _OTHER_KINDS[0][0].search(ends) is not None or (
        not _BBOX.search(ends) and any(pattern.search(ends) for pattern, *_ in _OTHER_KINDS)
    )


def _refuse_other_kind(folder: Path, file: PurePosixPath) -> None:
    """Raises PipelineError for a file without any bbox if its annotations are of a known kind."""
    content = to_utf8((folder / file).read_bytes())
    for pattern, description, remedy in _OTHER_KINDS:
        if pattern.search(content):
            instances = "detection needs instances of the same images (COCO's own are in instances_*.json)"
            raise PipelineError(f"{file}: " + "; ".join(filter(None, (description, instances, remedy))))


def _read_file(folder: Path, file: PurePosixPath) -> InstanceFile:
    try:
        return decode(file, to_utf8((folder / file).read_bytes()))
    except OSError as error:
        raise PipelineError(f"{file}: can't be read: {error.strerror}") from None


def decode(file: PurePosixPath, content: bytes) -> InstanceFile:
    """The records of an instance file, without segmentations and other unused fields.

    Raises:
        PipelineError: As `decode_with_json` does.
    """
    try:
        return msgspec.json.decode(content, type=InstanceFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return decode_with_json(file, content)


def decode_with_json(file: PurePosixPath, content: bytes) -> InstanceFile:
    """Like `decode`, slower, for any JSON that Python's reader accepts.

    Raises:
        PipelineError: The content isn't JSON, with line and column, or lacks a list of an instance file.
    """
    parsed = parse_json(content, file, _drop_segmentation)
    for key in ("images", "annotations", "categories"):
        if not isinstance(parsed, dict) or not isinstance(parsed.get(key), list):
            raise MissingListError(f"{file}: no list {key!r}; a COCO instance file must have one")
        for number, record in enumerate(parsed[key], 1):
            if not isinstance(record, dict):
                raise PipelineError(f"{file}: {key} record {number} is {show_value(record)}, not an object with fields")
    return InstanceFile(
        [_to_struct(_Image, record) for record in parsed["images"]],
        [_to_struct(_Annotation, record) for record in parsed["annotations"]],
        [_to_struct(_Category, record) for record in parsed["categories"]],
    )


def _to_struct(kind: type[_Record], record: dict[str, Any]) -> _Record:
    """Not msgspec.convert, which refuses unpaired surrogates even in field names."""
    return kind(**{name: record[name] for name in kind.__struct_fields__ if name in record})


def _drop_segmentation(record: dict[str, Any]) -> dict[str, Any]:
    record.pop("segmentation", None)  # while parsing: the segmentations of COCO take gigabytes of memory
    return record


def _categories(file: PurePosixPath, records: list[_Category]) -> tuple[tuple[Category, ...], dict[str, str]]:
    """The categories, and the class names by category id as text, because files mix 7 and "7"."""
    for number, record in enumerate(records, 1):
        if record.id is UNSET or not isinstance(record.name, str) or not is_utf8(record.name):
            has = "no id" if record.id is UNSET else f"id {show_value(record.id)}"
            raise PipelineError(
                f"{file}: category {number} needs an id and a name, has {has}, name {show_value(record.name)}"
            )
    keys, names = [_key(record.id) for record in records], [record.name for record in records]
    for field, values in (("id", keys), ("name", names)):
        for value, count in Counter(values).items():
            if count > 1:
                raise PipelineError(
                    f"{file}: category {field} '{show_value(value)}' is used {count} times; make it unique"
                )
    integers = [id for record in records if (id := _integer(record.id)) is not None]
    ids = integers if len(set(integers)) == len(records) else range(1, len(records) + 1)
    categories = tuple(Category(id, name) for id, name in zip(ids, names, strict=True))
    return categories, dict(zip(keys, names, strict=True))


def _key(value: Any) -> str:
    """An id as text, to match records with each other: 7, 7.0 and "7" are the same id."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is str else str(value) if type(value) is int else show_value(value)


def _split(
    file: PurePosixPath, name: str, content: InstanceFile, class_names: dict[str, str], images: ImageIndex
) -> RawSplit:
    keys = [_key(record.id) for record in content.images]
    file_names: dict[str, set[str]] = defaultdict(set)
    for key, image in zip(keys, content.images, strict=True):
        file_names[key].add(show_value(image.file_name))
    objects: dict[str, list[RawObject]] = defaultdict(list)
    prefix = f"{file}: annotation "
    for number, record in enumerate(content.annotations, 1):
        source = f"{prefix}number {number}" if record.id is UNSET else prefix + show_value(record.id)
        objects[_key(record.image_id)].append(_object(source, record, class_names))
    records = tuple(
        _image(file, name, record, tuple(objects.pop(key, ())), images, file_names[key])
        for key, record in zip(keys, content.images, strict=True)
    )
    return RawSplit(records, tuple(_orphan_objects(objects)))


def _orphan_objects(objects: dict[str, list[RawObject]]) -> Iterable[RawObject]:
    for image_id, orphans in objects.items():
        issue = Issue("missing_image_id", f"image {show_value(image_id)} does not exist")
        for orphan in orphans:
            yield RawObject(orphan.source, orphan.class_name, orphan.box, issue=issue)


def _image(
    file: PurePosixPath,
    split: str,
    record: _Image,
    objects: tuple[RawObject, ...],
    images: ImageIndex,
    file_names: set[str],
) -> RawImage:
    """`file_names` are those of all image records with this id."""
    source = f"{file}: image {None if record.id is UNSET else show_value(record.id)}"
    name = record.file_name
    if record.id in (UNSET, None) or not isinstance(name, str) or not name:
        return invalid_image(source, "needs an id and a file_name")
    if len(file_names) > 1:
        names = " and ".join(sorted(file_names)[:2])
        return invalid_image(source, f"the id is shared by {names}, so their annotations can't be told apart")
    width, height = _integer(record.width), _integer(record.height)
    declared_size = (width, height) if width and height and width > 0 and height > 0 else None
    path = images.find(name, file.parent, split)
    return image_record(source, path, _integer(record.id), declared_size, objects)


def _object(source: str, record: _Annotation, class_names: dict[str, str]) -> RawObject:
    box = _box(record.bbox)
    if isinstance(box, Issue):
        return invalid_object(source, box)
    name = class_names.get(_key(record.category_id))
    if name is None:
        message = f"category {show_value(record.category_id)} is not in the file's list of categories"
        return invalid_object(source, Issue("unknown_class", message), box)
    id = None if record.id is UNSET else _integer(record.id)
    return RawObject(source, name, box, id, _area(record.area), _flag(record.iscrowd), _flag(record.difficult))


def _area(value: Any) -> float | None:
    area = _number(value)
    return area if area is not None and 0 <= area < math.inf else None


def _flag(value: Any) -> int:
    return 0 if not value else int(value in (1, "1", "True", "true"))


def _box(value: Any) -> Box | Issue:
    if isinstance(value, list) and len(value) == 4:
        x, y, width, height = map(_number, value)
        if x is not None and y is not None and width is not None and height is not None:
            return (x, y, width, height)
    return Issue("invalid_record", f"bbox is {show_value(value)}, not [x, y, width, height]")


def _number(value: Any) -> float | None:
    """A number, or a number as text; None for anything else."""
    if type(value) is float:
        return value
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _integer(value: Any) -> int | None:
    """An integer, also as text or as a float; None for anything else and for integers beyond ±_LARGEST_ID."""
    if type(value) is int:
        return value if abs(value) <= _LARGEST_ID else None
    number = _number(value)
    if number is None or not number.is_integer() or abs(number) > _LARGEST_ID:
        return None
    integer = int(number)
    return None if isinstance(value, str) and str(integer) != value else integer  # "007" and "7" are two ids
