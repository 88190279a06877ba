"""keras-retinanet's CSV: an object a row, `path,x1,y1,x2,y2,class`; an image without objects is `path,,,,,`.

Format: https://github.com/fizyr/keras-retinanet#csv-datasets. No head. Corners are pixel edges, 0-based:
keras-retinanet takes 1 from VOC's numbers and x2 − x1 for the width. Classes are listed in a file of rows `name,id`.
"""

from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.classes import class_names
from pipeline.formats.csv_files import first_row, number, rows
from pipeline.formats.image_index import IMAGE_SUFFIXES, ImageIndex, list_files
from pipeline.formats.naming import show_value, split_names
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, RawSplit

_FIELDS = 6
_UNFIT = (0.0, 0.0, 0.0, 0.0)


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next(iter(_annotation_files(folder, files)), None)


def read(folder: Path) -> RawDataset:
    """Reads every such file below `folder`, one split each.

    Raises:
        PipelineError: there is none, one isn't CSV, or class files are broken or disagree.
    """
    files = list_files(folder)
    found = _annotation_files(folder, files)
    if not found:
        raise PipelineError(f"{folder}: no annotation found as of keras-retinanet: .csv rows path,x1,y1,x2,y2,class")
    images = ImageIndex(files)
    classes = _classes(folder, files)
    names = split_names({file: file.stem for file in found})
    known = set(classes) if classes else None
    splits = {names[file]: _split(folder, file, names[file], images, known) for file in found}
    return RawDataset(_categories(splits.values(), classes), splits, images.count)


def _annotation_files(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    tables = [file for file in files if file.suffix.lower() == ".csv"]
    return [file for file in tables if _is_annotation(first_row(folder, file))]


def _is_annotation(row: list[str]) -> bool:
    """Strict: TensorFlow's and others' tables have six columns and more, too, but a head."""
    if len(row) != _FIELDS or PurePosixPath(row[0]).suffix.lower() not in IMAGE_SUFFIXES:
        return False
    return not any(row[1:]) or (bool(row[5]) and all(number(side) is not None for side in row[1:5]))


def _classes(folder: Path, files: list[PurePosixPath]) -> dict[str, int]:
    """Ids by class name, in the ids' order; empty where there is no class file."""
    first: tuple[PurePosixPath, dict[str, int]] | None = None
    for file in files:
        if file.suffix.lower() == ".csv" and _is_class(first_row(folder, file)):
            listing = _class_list(folder, file)
            if first and first[1] != listing:
                raise PipelineError(f"{file}: its classes are not those of {first[0]}; keep one class file")
            first = first or (file, listing)
    return first[1] if first else {}


def _is_class(row: list[str]) -> bool:
    return len(row) == 2 and bool(row[0]) and row[1].isdecimal()


def _class_list(folder: Path, file: PurePosixPath) -> dict[str, int]:
    found: dict[str, int] = {}
    for line, row in rows(folder, file):
        if not _is_class(row) or len(row[1]) > 15:
            raise PipelineError(f"{file}: line {line}: it has {show_value(row)}, not a class name and its id")
        if row[0] in found or int(row[1]) in found.values():
            raise PipelineError(f"{file}: line {line}: class {show_value(row[0])!r} or id {row[1]} is already used")
        found[row[0]] = int(row[1])
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _categories(splits: Iterable[RawSplit], classes: dict[str, int]) -> tuple[Category, ...]:
    if classes:
        return tuple(Category(id, name) for name, id in classes.items())
    found = class_names(image for split in splits for image in split.images)
    return tuple(Category(id, name) for id, name in enumerate(sorted(found)))


def _split(folder: Path, file: PurePosixPath, split: str, images: ImageIndex, known: set[str] | None) -> RawSplit:
    lines: dict[str, int] = {}
    objects: dict[str, list[RawObject]] = {}
    orphan_objects: list[RawObject] = []
    for line, row in rows(folder, file):
        source = f"{file}: line {line}"
        if not row[0]:
            orphan_objects.append(
                RawObject(source, "", _UNFIT, issue=Issue("invalid_record", f"it names no image: {show_value(row)}"))
            )
            continue
        lines.setdefault(row[0], line)
        here = objects.setdefault(row[0], [])
        if len(row) != _FIELDS or any(row[1:]):
            here.append(_object(source, row, known))
    found = (_image(file, line, path, split, tuple(objects[path]), images) for path, line in lines.items())
    return RawSplit(tuple(found), tuple(orphan_objects))


def _image(
    file: PurePosixPath, line: int, name: str, split: str, objects: tuple[RawObject, ...], images: ImageIndex
) -> RawImage:
    path = images.find(name, file.parent, split)
    if isinstance(path, Issue):
        return RawImage(f"{file}: line {line}", "", objects=objects, issue=path)
    return RawImage(f"{file}: line {line}", path, objects=objects)


def _object(source: str, row: list[str], known: set[str] | None) -> RawObject:
    box = _box(row)
    if isinstance(box, Issue):
        return RawObject(source, "", _UNFIT, issue=box)
    if known is not None and row[5] not in known:
        issue = Issue("unknown_class", f"its class {show_value(row[5])!r} is not in the class file")
        return RawObject(source, "", box, issue=issue)
    return RawObject(source, row[5], box)


def _box(row: list[str]) -> Box | Issue:
    sides = [side for text in row[1:5] if (side := number(text)) is not None]
    if len(row) != _FIELDS or len(sides) != 4 or not row[5]:
        return Issue("invalid_record", f"it has {show_value(row)}, not path,x1,y1,x2,y2,class")
    x1, y1, x2, y2 = sides
    return (x1, y1, x2 - x1, y2 - y1)
