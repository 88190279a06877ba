"""Reader of Open Images' CSV: one row per object, with coordinates relative to the image's size.

Format: https://storage.googleapis.com/openimages/web/download_v7.html#df-boxes. Classes are codes such as /m/01yrx,
translated by a file with rows `code,name` (class-descriptions), or plain names. Decimal commas ("0,358") are read too.
A group (IsGroupOf), which is one box around more than five touching objects, becomes a crowd.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.classes import collect_class_names, number_categories
from pipeline.formats.csv_files import parse_number, read_first_row, read_rows
from pipeline.formats.dataset_files import list_files, refuse_empty_splits
from pipeline.formats.image_index import IMAGE_SUFFIXES, ImageIndex, read_image_size
from pipeline.formats.records import (
    Box,
    Issue,
    RawDataset,
    RawImage,
    RawObject,
    RawSplit,
    image_record,
    invalid_object,
)
from pipeline.formats.split_names import name_splits_by_file
from pipeline.formats.text import show_value

_COORDINATES = ("XMin", "XMax", "YMin", "YMax")
_REQUIRED = {"ImageID", "LabelName", *_COORDINATES}
_CODE = re.compile(r"/[a-z]/\w+")


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next(iter(_annotation_files(folder, files)), None)


def read(folder: Path) -> RawDataset:
    """Reads all files of boxes below `folder`, each as a split: `train-annotations-bbox.csv` is `train`.

    Raises:
        PipelineError: There is no such file, a file isn't CSV, or class descriptions contradict each other.
    """
    files = list_files(folder)
    annotation_files = _annotation_files(folder, files)
    if not annotation_files:
        raise PipelineError(f"{folder}: no Open Images annotation found: a .csv with ImageID,LabelName,XMin,…")
    refuse_empty_splits(folder, files, ".csv")
    images = ImageIndex(files)
    class_names = _read_class_names(folder, files)
    split_names = name_splits_by_file({file: _stem(file) for file in annotation_files})
    splits = {
        split_names[file]: _split(folder, file, split_names[file], images, class_names) for file in annotation_files
    }
    return RawDataset(_categories(splits.values(), class_names), splits, images.count)


def _csv_files(files: list[PurePosixPath]) -> list[PurePosixPath]:
    return [file for file in files if file.suffix.lower() == ".csv"]


def _annotation_files(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return [file for file in _csv_files(files) if set(read_first_row(folder, file)) >= _REQUIRED]


def _stem(file: PurePosixPath) -> str:
    return re.sub(r"^oidv\d+-|-annotations(-human)?-bbox$", "", file.stem)


def _read_class_names(folder: Path, files: list[PurePosixPath]) -> dict[str, str]:
    """Class names by code, in the order of the files; empty if no file describes them."""
    names: dict[str, str] = {}
    for file in _csv_files(files):
        if "class" in file.stem.lower() and len(read_first_row(folder, file)) == 2:
            for line, row in read_rows(folder, file):
                if len(row) != 2 or not _CODE.fullmatch(row[0]) or not row[1]:
                    continue  # a header
                if names.setdefault(row[0], row[1]) != row[1]:
                    raise PipelineError(f"{file}: line {line}: class {row[0]} is called {names[row[0]]!r} elsewhere")
    return names


def _categories(splits: Iterable[RawSplit], class_names: dict[str, str]) -> tuple[Category, ...]:
    described = list(dict.fromkeys(class_names.values()))
    others = collect_class_names(image for split in splits for image in split.images) - set(described)
    return number_categories(described + sorted(others))


@dataclass(frozen=True)
class _Table:
    """A file of boxes, with the information needed to read its rows."""

    folder: Path
    file: PurePosixPath
    split: str
    columns: dict[str, int]
    images: ImageIndex
    class_names: dict[str, str]


def _split(folder: Path, file: PurePosixPath, split: str, images: ImageIndex, class_names: dict[str, str]) -> RawSplit:
    """The rows of an image need not be adjacent."""
    rows = read_rows(folder, file)
    _, header = next(rows)
    table = _Table(folder, file, split, {name: index for index, name in enumerate(header)}, images, class_names)
    by_image: dict[str, list[tuple[int, list[str]]]] = {}
    orphans: list[RawObject] = []
    for line, row in rows:
        image_id = row[table.columns["ImageID"]] if len(row) == len(header) else ""
        if image_id:
            by_image.setdefault(image_id, []).append((line, row))
        else:
            message = f"has {len(row)} fields while the header has {len(header)}, or no ImageID"
            orphans.append(invalid_object(f"{file}: line {line}", Issue("invalid_record", message)))
    records = tuple(_image(table, image_id, rows_of_image) for image_id, rows_of_image in by_image.items())
    return RawSplit(records, tuple(orphans))


def _image(table: _Table, image_id: str, rows: list[tuple[int, list[str]]]) -> RawImage:
    source = f"{table.file}: line {rows[0][0]}"
    path = _find_file(table, image_id)
    size = path if isinstance(path, Issue) else read_image_size(table.folder / path)
    if isinstance(size, Issue):
        return image_record(source, size)
    return image_record(source, path, objects=tuple(_object(table, line, row, size) for line, row in rows))


def _find_file(table: _Table, image_id: str) -> str | Issue:
    near = table.file.parent
    if PurePosixPath(image_id).suffix.lower() in IMAGE_SUFFIXES:
        return table.images.find(image_id, near, table.split)
    return table.images.find_stem(image_id, near, table.split)


def _object(table: _Table, line: int, row: list[str], size: tuple[int, int]) -> RawObject:
    source = f"{table.file}: line {line}"
    label = row[table.columns["LabelName"]]
    box = _box([row[table.columns[name]] for name in _COORDINATES], size)
    if isinstance(box, Issue):
        return invalid_object(source, box)
    if not label:
        return invalid_object(source, Issue("invalid_record", "has no LabelName"), box)
    is_group = "IsGroupOf" in table.columns and row[table.columns["IsGroupOf"]] == "1"
    return RawObject(source, table.class_names.get(label, label), box, iscrowd=int(is_group))


def _box(fields: list[str], size: tuple[int, int]) -> Box | Issue:
    numbers = [number for text in fields if (number := parse_number(text)) is not None]
    if len(numbers) != 4:
        return Issue("invalid_record", f"XMin, XMax, YMin, YMax are {show_value(fields)}, not four numbers")
    left, right, top, bottom = numbers
    width, height = size
    return (left * width, top * height, (right - left) * width, (bottom - top) * height)
