"""COCO instance annotations, however they are laid out: COCO's own folders, Roboflow's, or a single file.

Format: https://cocodataset.org/#format-data. Outlines and other fields that nobody asks for are most of such a file:
they are never turned into objects. What msgspec refuses (NaN, half characters, a record that is no object) the plain
JSON reader takes, or names with its line; both give the same records.
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
from pipeline.files import parse_json
from pipeline.formats.image_index import ImageIndex, list_files, read_head, read_tail
from pipeline.formats.naming import is_utf8, show_value, split_names
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, RawSplit

_SNIFF = 1 << 16  # bytes at either end of a file in which its first or last list must begin
_LIST = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
_SCORE = re.compile(rb'"score"\s*:')
_BOM = b"\xef\xbb\xbf"
_LARGEST_ID = 2**53  # beyond it JSON's numbers aren't exact everywhere


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


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next(iter(_annotation_files(folder, files)), None)


def read(folder: Path) -> RawDataset:
    """Reads every instance file below `folder`, one split each.

    Files may number the same classes differently, or not list them all: the longest list counts, of equal ones the
    first.

    Raises:
        PipelineError: a file is not JSON (with its line), lacks a list, or no file's categories
            are all those of the others.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    found = _annotation_files(folder, files)
    if not found:
        raise PipelineError(f"{folder}: no COCO instance file found: a .json with images, annotations and categories")
    called = split_names({file: file.stem.removeprefix("instances_") for file in found})
    splits: dict[str, RawSplit] = {}
    categories: dict[PurePosixPath, tuple[Category, ...]] = {}
    for file in found:
        content = _content(folder, file)
        categories[file], names = _categories(file, content.categories)
        splits[called[file]] = _split(file, called[file], content, names, images)
    return RawDataset(_common(categories), splits, images.count)


def _common(categories: dict[PurePosixPath, tuple[Category, ...]]) -> tuple[Category, ...]:
    names = {file: {category.name for category in own} for file, own in categories.items()}
    longest = max(names, key=lambda file: len(names[file]))  # the first of equal ones
    for file, own in names.items():
        if strange := sorted(own - names[longest]):
            raise PipelineError(
                f"{file}: its categories are not those of {longest}, which has no {show_value(strange[0])!r}; "
                "all splits need the same list, or one that holds the others'; is it another data set?"
            )
    return categories[longest]


def _annotation_files(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    """Instance files. Beside COCO's own `instances_*` lie key points and captions of the same images, and beside
    whatever truth may lie detections in the same form: a score tells them."""
    found = {file: ends for file in files if file.suffix.lower() == ".json" and (ends := _ends(folder / file))}
    official = {file.parent for file in found if file.name.startswith("instances_")}
    own = [file for file in found if file.parent not in official or file.name.startswith("instances_")]
    return [file for file in own if not _SCORE.search(found[file])] or own


def _ends(path: Path) -> bytes:
    """Both ends of a JSON file that may be one of COCO's; nothing of any other."""
    start = read_head(path, _SNIFF)
    if not start.removeprefix(_BOM).lstrip().startswith(b"{"):
        return b""
    ends = start if len(start) < _SNIFF else start + read_tail(path, _SNIFF)
    return ends if _LIST.search(ends) else b""


def _content(folder: Path, file: PurePosixPath) -> _File:
    try:
        return parsed(file, (folder / file).read_bytes().removeprefix(_BOM))
    except OSError as error:
        raise PipelineError(f"{file}: can't be read: {error.strerror}") from None


def parsed(file: PurePosixPath, written: bytes) -> _File:
    """The records of an instance file, outlines and other unused fields passed over.

    Raises:
        PipelineError: see `parsed_plainly`.
    """
    try:
        return msgspec.json.decode(written, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return parsed_plainly(file, written)


def parsed_plainly(file: PurePosixPath, written: bytes) -> _File:
    """The same, slower, of whatever JSON there is.

    Raises:
        PipelineError: it is not JSON, with line and column, or lacks what an instance file has.
    """
    content = parse_json(written, file, _without_outlines)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise PipelineError(f"{file}: it has no list {key!r}; COCO instance files have one")
        for number, record in enumerate(content[key], 1):
            if not isinstance(record, dict):
                raise PipelineError(f"{file}: {key} record {number} is {show_value(record)}, not an object with fields")
    return _File(
        [_taken(_Image, record) for record in content["images"]],
        [_taken(_Annotation, record) for record in content["annotations"]],
        [_taken(_Category, record) for record in content["categories"]],
    )


def _taken(kind: type[_Record], record: dict[str, Any]) -> _Record:
    """By hand, since msgspec's own conversion refuses half characters, even among names of fields."""
    return kind(**{name: record[name] for name in kind.__struct_fields__ if name in record})


def _without_outlines(record: dict[str, Any]) -> dict[str, Any]:
    record.pop("segmentation", None)  # at once: all outlines of COCO are gigabytes
    return record


def _categories(file: PurePosixPath, records: list[_Category]) -> tuple[tuple[Category, ...], dict[str, str]]:
    """The categories, and class names by category id as text: files mix 7 and "7"."""
    for number, record in enumerate(records, 1):
        if record.id is UNSET or not isinstance(record.name, str) or not is_utf8(record.name):
            id = "no id" if record.id is UNSET else f"id {show_value(record.id)}"
            raise PipelineError(
                f"{file}: category {number} needs an id and a name, has {id}, name {show_value(record.name)}"
            )
    keys, names = [_key(record.id) for record in records], [record.name for record in records]
    for field, values in (("id", keys), ("name", names)):
        for value, count in Counter(values).items():
            if count > 1:
                raise PipelineError(
                    f"{file}: category {field} '{show_value(value)}' is used {count} times; each needs its own"
                )
    wholes = [_whole(record.id) for record in records]
    own = [whole for whole in wholes if whole is not None]
    ids = own if len(set(own)) == len(records) else range(1, len(records) + 1)
    categories = tuple(Category(id, name) for id, name in zip(ids, names, strict=True))
    return categories, dict(zip(keys, names, strict=True))


def _key(value: Any) -> str:
    """An id as text, by which records find each other: 7, 7.0 and "7" are one."""
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is str else str(value) if type(value) is int else show_value(value)


def _split(file: PurePosixPath, name: str, content: _File, names: dict[str, str], images: ImageIndex) -> RawSplit:
    keys = [_key(record.id) for record in content.images]
    called: dict[str, set[str]] = defaultdict(set)
    for key, image in zip(keys, content.images, strict=True):
        called[key].add(show_value(image.file_name))
    objects: dict[str, list[RawObject]] = defaultdict(list)
    place = f"{file}: annotation "
    for number, record in enumerate(content.annotations, 1):
        source = f"{place}number {number}" if record.id is UNSET else place + show_value(record.id)
        objects[_key(record.image_id)].append(_object(source, record, names))
    found = tuple(
        _image(file, name, record, tuple(objects.pop(key, ())), images, called[key])
        for key, record in zip(keys, content.images, strict=True)
    )
    return RawSplit(found, tuple(_orphans(objects)))


def _orphans(objects: dict[str, list[RawObject]]) -> Iterable[RawObject]:
    for image, strays in objects.items():
        for stray in strays:
            issue = Issue("missing_image_id", f"its image {show_value(image)} does not exist")
            yield RawObject(stray.source, stray.name, stray.box, issue=issue)


def _image(
    file: PurePosixPath,
    split: str,
    record: _Image,
    objects: tuple[RawObject, ...],
    images: ImageIndex,
    called: set[str],
) -> RawImage:
    """`called`: all file names that records of its id have."""
    source = f"{file}: image {None if record.id is UNSET else show_value(record.id)}"
    name = record.file_name
    if record.id in (UNSET, None) or not isinstance(name, str) or not name:
        return RawImage(source, "", issue=Issue("invalid_record", "it needs an id and a file_name"))
    if len(called) > 1:
        names = " and ".join(sorted(called)[:2])
        return RawImage(
            source, "", issue=Issue("invalid_record", f"its id is that of {names}: whose objects are whose?")
        )
    width, height = _whole(record.width), _whole(record.height)
    declared_size = (width, height) if width and height and width > 0 and height > 0 else None
    path = images.find(name, file.parent, split)
    if isinstance(path, Issue):
        return RawImage(source, "", _whole(record.id), declared_size, objects, path)
    return RawImage(source, path, _whole(record.id), declared_size, objects)


def _object(source: str, record: _Annotation, names: dict[str, str]) -> RawObject:
    box = _box(record.bbox)
    if isinstance(box, Issue):
        return RawObject(source, "", (0, 0, 0, 0), issue=box)
    name = names.get(_key(record.category_id))
    if name is None:
        issue = Issue("unknown_class", f"its category {show_value(record.category_id)} is not in the file's list")
        return RawObject(source, "", box, issue=issue)
    own = None if record.id is UNSET else _whole(record.id)
    return RawObject(source, name, box, own, _area(record.area), _flag(record.iscrowd), _flag(record.difficult))


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
    return Issue("invalid_record", f"its bbox is {show_value(value)}, not [x, y, width, height]")


def _number(value: Any) -> float | None:
    """A number, also one written as text; None for anything else."""
    if type(value) is float:
        return value
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _whole(value: Any) -> int | None:
    """A whole number, also one written as text or with a point; None for anything else, and for an enormous one."""
    if type(value) is int:
        return value if abs(value) <= _LARGEST_ID else None
    number = _number(value)
    if number is None or not number.is_integer() or abs(number) > _LARGEST_ID:
        return None
    whole = int(number)
    return None if isinstance(value, str) and str(whole) != value else whole  # "007" and "7" are two ids
