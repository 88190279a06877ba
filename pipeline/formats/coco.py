"""COCO instance annotations, however they are laid out: COCO's own folders, Roboflow's, or a single file.

Format: https://cocodataset.org/#format-data. Read with a plain JSON reader, so that a broken record can be named.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.annotations import Category
from pipeline.errors import PipelineError
from pipeline.files import read_json
from pipeline.formats.images import ImageFiles, listed
from pipeline.formats.records import Box, Fault, RawDataset, RawImage, RawObject, RawSplit

_SNIFF = 1 << 16  # bytes at either end of a file in which its first or last list must begin
_LIST = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')
# File names that say nothing about the split: the folder's name does.
_GENERIC = {"_annotations.coco", "annotations", "annotation", "instances", "coco", "default", "labels", "result"}
_NO_SPLIT = {"annotations", "annotation", "labels", ""}  # and folder names that don't either


def evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next(iter(_annotation_files(folder, files)), None)


def read(folder: Path) -> RawDataset:
    """Reads every instance file below `folder`, one split each.

    Raises:
        PipelineError: a file is not JSON (with its line), lacks a list, repeats an image id, or files disagree on
            the categories.
    """
    files = listed(folder)
    images = ImageFiles(files)
    splits: dict[str, RawSplit] = {}
    first: tuple[PurePosixPath, tuple[Category, ...]] | None = None
    for file in _annotation_files(folder, files):
        name = _split_name(file)
        if name in splits:
            raise PipelineError(f"{file}: a second file for the split {name!r}; keep one of them")
        content = _content(folder, file)
        categories, names = _categories(file, content["categories"])
        if first and set(first[1]) != set(categories):
            raise PipelineError(f"{file}: its categories are not those of {first[0]}; all splits need the same list")
        first = first or (file, categories)
        splits[name] = _split(file, name, content, names, images)
    if first is None:
        raise PipelineError(f"{folder}: no COCO instance file found: a .json with images, annotations and categories")
    return RawDataset(first[1], splits, images.count)


def _annotation_files(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    """Instance files. Beside COCO's own `instances_*` lie key points and captions of the same images."""
    found = [file for file in files if file.suffix.lower() == ".json" and _sniff(folder / file)]
    official = {file.parent for file in found if file.name.startswith("instances_")}
    return [file for file in found if file.parent not in official or file.name.startswith("instances_")]


def _sniff(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(_SNIFF)
        file.seek(max(0, path.stat().st_size - _SNIFF))
        tail = file.read(_SNIFF)
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and bool(_LIST.search(head) or _LIST.search(tail))


def _split_name(file: PurePosixPath) -> str:
    stem = file.stem.removeprefix("instances_")
    if stem.lower() not in _GENERIC:
        return stem
    return file.parent.name if file.parent.name.lower() not in _NO_SPLIT else "all"


def _content(folder: Path, file: PurePosixPath) -> dict[str, list[Any]]:
    try:
        content = read_json(folder / file)
    except PipelineError as error:  # name the file as every other message does
        raise PipelineError(str(error).replace(str(folder / file), str(file), 1)) from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise PipelineError(f"{file}: it has no list {key!r}; COCO instance files have one")
        for number, record in enumerate(content[key], 1):
            if not isinstance(record, dict):
                raise PipelineError(f"{file}: {key} record {number} is {record!r}, not an object with fields")
    return content  # type: ignore[no-any-return]


def _categories(file: PurePosixPath, records: list[dict[str, Any]]) -> tuple[tuple[Category, ...], dict[str, str]]:
    """The categories, and class names by category id as text: files mix 7 and "7"."""
    for number, record in enumerate(records, 1):
        if "id" not in record or not isinstance(record.get("name"), str):
            raise PipelineError(f"{file}: category {number} needs an id and a name, has {record!r}")
    for field in ("id", "name"):
        for value, count in Counter(str(record[field]) for record in records).items():
            if count > 1:
                raise PipelineError(f"{file}: category {field} {value!r} is used {count} times; each needs its own")
    own = all(_whole(record["id"]) is not None for record in records)
    categories = tuple(
        Category(int(record["id"]) if own else number, record["name"]) for number, record in enumerate(records, 1)
    )
    return categories, {str(record["id"]): record["name"] for record in records}


def _split(
    file: PurePosixPath, name: str, content: dict[str, list[Any]], names: dict[str, str], images: ImageFiles
) -> RawSplit:
    keys = [str(record.get("id")) for record in content["images"]]
    for key, count in Counter(keys).items():
        if count > 1:
            raise PipelineError(f"{file}: image id {key} is used {count} times; each image needs its own")
    objects: dict[str, list[RawObject]] = defaultdict(list)
    for number, record in enumerate(content["annotations"], 1):
        objects[str(record.get("image_id"))].append(_object(file, number, record, names))
    found = tuple(
        _image(file, name, record, tuple(objects.pop(key, ())), images)
        for key, record in zip(keys, content["images"], strict=True)
    )
    return RawSplit(found, tuple(_orphans(objects)))


def _orphans(objects: dict[str, list[RawObject]]) -> Iterable[RawObject]:
    for image, strays in objects.items():
        for stray in strays:
            fault = Fault("orphan", f"its image {image} does not exist")
            yield RawObject(stray.where, stray.name, stray.box, fault=fault)


def _image(
    file: PurePosixPath, split: str, record: dict[str, Any], objects: tuple[RawObject, ...], images: ImageFiles
) -> RawImage:
    where = f"{file}: image {record.get('id')}"
    name = record.get("file_name")
    if "id" not in record or not isinstance(name, str) or not name:
        return RawImage(where, "", fault=Fault("record", "it needs an id and a file_name"))
    width, height = _whole(record.get("width")), _whole(record.get("height"))
    declared = (width, height) if width and height else None
    path = images.named(name, file.parent, split)
    if isinstance(path, Fault):
        return RawImage(where, "", _whole(record["id"]), declared, objects, path)
    return RawImage(where, path, _whole(record["id"]), declared, objects)


def _object(file: PurePosixPath, number: int, record: dict[str, Any], names: dict[str, str]) -> RawObject:
    where = f"{file}: annotation {record.get('id', f'number {number}')}"
    box = _box(record.get("bbox"))
    if isinstance(box, Fault):
        return RawObject(where, "", (0, 0, 0, 0), fault=box)
    name = names.get(str(record.get("category_id")))
    if name is None:
        fault = Fault("unknown_class", f"its category {record.get('category_id')!r} is not in the file's list")
        return RawObject(where, "", box, fault=fault)
    area = _number(record.get("area"))
    usable = area is not None and math.isfinite(area) and area >= 0
    crowd = int(str(record.get("iscrowd") or 0) in ("1", "True"))
    difficult = int(str(record.get("difficult") or 0) in ("1", "True"))
    return RawObject(where, name, box, _whole(record.get("id")), area if usable else None, crowd, difficult)


def _box(value: Any) -> Box | Fault:
    numbers = [_number(side) for side in value] if isinstance(value, list) else []
    if len(numbers) != 4 or None in numbers:
        return Fault("record", f"its bbox is {value!r}, not [x, y, width, height]")
    x, y, width, height = (float(number) for number in numbers if number is not None)
    return (x, y, width, height)


def _number(value: Any) -> float | None:
    """A number, also one written as text; None for anything else."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _whole(value: Any) -> int | None:
    number = _number(value)
    if number is None or not number.is_integer() or (isinstance(value, str) and str(int(number)) != value):
        return None  # "007" and "7" are two ids
    return int(value)
