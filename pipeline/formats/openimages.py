"""Open Images' CSV: an object a row, its sides as shares of the image's.

Format: https://storage.googleapis.com/openimages/web/download_v7.html#df-boxes. Classes are codes such as
/m/01yrx, which a file of rows `code,name` (class-descriptions) puts into words; or words at once. Tables with a
decimal comma ("0,358") are read too. A group (IsGroupOf) becomes a crowd: one box around more than five objects that
touch.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.classes import class_names, number_categories
from pipeline.formats.csv_files import first_row, number, rows
from pipeline.formats.image_index import IMAGE_SUFFIXES, ImageIndex, list_files, read_image_size
from pipeline.formats.naming import show_value, split_names
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, RawSplit

_SIDES = ("XMin", "XMax", "YMin", "YMax")
_NEEDED = {"ImageID", "LabelName", *_SIDES}
_CODE = re.compile(r"/[a-z]/\w+")
_UNFIT = (0.0, 0.0, 0.0, 0.0)


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next(iter(_annotation_files(folder, files)), None)


def read(folder: Path) -> RawDataset:
    """Reads every table of boxes below `folder`, one split each: `train-annotations-bbox.csv` is `train`.

    Raises:
        PipelineError: there is no table, one isn't CSV, or class descriptions disagree.
    """
    files = list_files(folder)
    found = _annotation_files(folder, files)
    if not found:
        raise PipelineError(f"{folder}: no Open Images annotation found: a .csv with ImageID,LabelName,XMin,…")
    images = ImageIndex(files)
    names = _names(folder, files)
    called = split_names({file: _stem(file) for file in found})
    splits = {called[file]: _split(folder, file, called[file], images, names) for file in found}
    return RawDataset(_categories(splits.values(), names), splits, images.count)


def _tables(files: list[PurePosixPath]) -> list[PurePosixPath]:
    return [file for file in files if file.suffix.lower() == ".csv"]


def _annotation_files(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return [file for file in _tables(files) if set(first_row(folder, file)) >= _NEEDED]


def _stem(file: PurePosixPath) -> str:
    return re.sub(r"^oidv\d+-|-annotations(-human)?-bbox$", "", file.stem)


def _names(folder: Path, files: list[PurePosixPath]) -> dict[str, str]:
    """Class names by code, in the file's order; empty where no file describes them."""
    names: dict[str, str] = {}
    for file in _tables(files):
        if "class" in file.stem.lower() and len(first_row(folder, file)) == 2:
            for line, row in rows(folder, file):
                if len(row) != 2 or not _CODE.fullmatch(row[0]) or not row[1]:
                    continue  # a head
                if names.setdefault(row[0], row[1]) != row[1]:
                    raise PipelineError(f"{file}: line {line}: {row[0]} is {names[row[0]]!r} in another place")
    return names


def _categories(splits: Iterable[RawSplit], names: dict[str, str]) -> tuple[Category, ...]:
    described = list(dict.fromkeys(names.values()))
    others = class_names(image for split in splits for image in split.images) - set(described)
    return number_categories(described + sorted(others))


@dataclass(frozen=True)
class _Table:
    """A table of boxes, with what its rows refer to."""

    folder: Path
    file: PurePosixPath
    split: str
    columns: dict[str, int]
    images: ImageIndex
    names: dict[str, str]


def _split(folder: Path, file: PurePosixPath, split: str, images: ImageIndex, names: dict[str, str]) -> RawSplit:
    """Rows of an image need not be together."""
    lines = rows(folder, file)
    _, header = next(lines)
    table = _Table(folder, file, split, {name: place for place, name in enumerate(header)}, images, names)
    found: dict[str, list[tuple[int, list[str]]]] = {}
    orphan_objects: list[RawObject] = []
    for line, row in lines:
        name = row[table.columns["ImageID"]] if len(row) == len(header) else ""
        if name:
            found.setdefault(name, []).append((line, row))
        else:
            issue = Issue("invalid_record", f"it has {len(row)} fields where the head has {len(header)}, or no ImageID")
            orphan_objects.append(RawObject(f"{file}: line {line}", "", _UNFIT, issue=issue))
    made = tuple(_image(table, name, own) for name, own in found.items())
    return RawSplit(made, tuple(orphan_objects))


def _image(table: _Table, name: str, lines: list[tuple[int, list[str]]]) -> RawImage:
    source = f"{table.file}: line {lines[0][0]}"
    path = _file(table, name)
    size = path if isinstance(path, Issue) else read_image_size(table.folder / path)
    if isinstance(size, Issue):
        return RawImage(source, "", issue=size)
    return RawImage(source, str(path), objects=tuple(_object(table, line, row, size) for line, row in lines))


def _file(table: _Table, name: str) -> str | Issue:
    near = table.file.parent
    if PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
        return table.images.find(name, near, table.split)
    return table.images.find_stem(name, near, table.split)


def _object(table: _Table, line: int, row: list[str], size: tuple[int, int]) -> RawObject:
    source = f"{table.file}: line {line}"
    label = row[table.columns["LabelName"]]
    box = _box([row[table.columns[side]] for side in _SIDES], size)
    if isinstance(box, Issue):
        return RawObject(source, "", _UNFIT, issue=box)
    if not label:
        return RawObject(source, "", box, issue=Issue("invalid_record", "it has no LabelName"))
    group = "IsGroupOf" in table.columns and row[table.columns["IsGroupOf"]] == "1"
    return RawObject(source, table.names.get(label, label), box, iscrowd=int(group))


def _box(texts: list[str], size: tuple[int, int]) -> Box | Issue:
    sides = [side for text in texts if (side := number(text)) is not None]
    if len(sides) != 4:
        return Issue("invalid_record", f"its XMin, XMax, YMin, YMax are {show_value(texts)}, not four numbers")
    left, right, top, bottom = sides
    width, height = size
    return (left * width, top * height, (right - left) * width, (bottom - top) * height)
