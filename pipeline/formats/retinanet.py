"""Reader of keras-retinanet's CSV: one row per object, `path,x1,y1,x2,y2,class`; `path,,,,,` if an image has none.

SKU-110K's `path,x1,y1,x2,y2,class,width,height` is read, too: https://github.com/eg4000/SKU110K_CVPR19.

Format: https://github.com/fizyr/keras-retinanet#csv-datasets. There is no header. Corners are pixel edges, 0-based:
keras-retinanet subtracts 1 from VOC's coordinates and takes x2 − x1 as the width. A second file lists the classes in
rows `name,id`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.classes import collect_class_names
from pipeline.formats.csv_files import parse_number, read_first_row, read_rows
from pipeline.formats.dataset_files import list_files, refuse_empty_splits
from pipeline.formats.image_index import IMAGE_SUFFIXES, ImageIndex
from pipeline.formats.layouts import AnnotationFile, Row, group_rows
from pipeline.formats.records import Box, Issue, RawDataset, RawObject, RawSplit, object_record
from pipeline.formats.split_names import name_splits_by_file
from pipeline.formats.text import show_value
from pipeline.formats.values import box_from_corners, to_size

_FIELDS = 6
_FIELDS_WITH_SIZE = 8


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next(iter(_annotation_files(folder, files)), None)


def read(folder: Path) -> RawDataset:
    """Reads all annotation files below `folder`, each as a split.

    Raises:
        PipelineError: There is no such file, a file isn't CSV, or class files are invalid or differ.
    """
    files = list_files(folder)
    annotation_files = _annotation_files(folder, files)
    if not annotation_files:
        raise PipelineError(f"{folder}: no keras-retinanet annotation found: a .csv with rows path,x1,y1,x2,y2,class")
    refuse_empty_splits(folder, files, ".csv")
    images = ImageIndex(files)
    class_ids = _read_class_ids(folder, files)
    split_names = name_splits_by_file({file: file.stem for file in annotation_files})
    known = set(class_ids) if class_ids else None
    splits = {}
    for file, name in split_names.items():
        annotations = AnnotationFile(folder, file, name, images)
        splits[name] = group_rows(annotations, _rows(annotations, known))
    return RawDataset(_categories(splits.values(), class_ids), splits, images.count)


def _annotation_files(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    csv_files = [file for file in files if file.suffix.lower() == ".csv"]
    return [file for file in csv_files if _is_annotation(read_first_row(folder, file))]


def _is_annotation(row: list[str]) -> bool:
    """Whether the first row is an annotation. Other formats with six columns or more have a header."""
    if len(row) not in (_FIELDS, _FIELDS_WITH_SIZE) or PurePosixPath(row[0]).suffix.lower() not in IMAGE_SUFFIXES:
        return False
    if len(row) == _FIELDS_WITH_SIZE and not _fits_into_image(row):
        return False
    return not any(row[1:]) or (bool(row[5]) and all(parse_number(field) is not None for field in row[1:5]))


def _fits_into_image(row: list[str]) -> bool:
    """Whether the corners are inside the image whose size follows: other tables have a size first."""
    box, size = box_from_corners(row[1:5]), to_size(*row[_FIELDS:])
    if isinstance(box, Issue) or size is None:
        return False
    left, top, width, height = box
    return min(box) >= 0 and left + width <= size[0] and top + height <= size[1]


def _read_class_ids(folder: Path, files: list[PurePosixPath]) -> dict[str, int]:
    """Ids by class name, sorted by id; empty if there is no class file."""
    first: tuple[PurePosixPath, dict[str, int]] | None = None
    for file in files:
        if file.suffix.lower() == ".csv" and _is_class(read_first_row(folder, file)):
            class_ids = _read_class_file(folder, file)
            if first and first[1] != class_ids:
                raise PipelineError(f"{file}: its classes differ from those of {first[0]}; keep one class file")
            first = first or (file, class_ids)
    return first[1] if first else {}


def _is_class(row: list[str]) -> bool:
    return len(row) == 2 and bool(row[0]) and row[1].isdecimal()


def _read_class_file(folder: Path, file: PurePosixPath) -> dict[str, int]:
    class_ids: dict[str, int] = {}
    for line, row in read_rows(folder, file):
        if not _is_class(row) or len(row[1]) > 15:
            raise PipelineError(f"{file}: line {line}: {show_value(row)} is not a class name and its id")
        if row[0] in class_ids or int(row[1]) in class_ids.values():
            raise PipelineError(f"{file}: line {line}: class {show_value(row[0])!r} or id {row[1]} is already used")
        class_ids[row[0]] = int(row[1])
    return dict(sorted(class_ids.items(), key=lambda item: item[1]))


def _categories(splits: Iterable[RawSplit], class_ids: dict[str, int]) -> tuple[Category, ...]:
    if class_ids:
        return tuple(Category(id, name) for name, id in class_ids.items())
    names = collect_class_names(image for split in splits for image in split.images)
    return tuple(Category(id, name) for id, name in enumerate(sorted(names)))


def _rows(annotations: AnnotationFile, known_classes: set[str] | None) -> Iterator[Row]:
    for line, row in read_rows(annotations.folder, annotations.file):
        source = f"{annotations.file}: line {line}"
        is_empty = len(row) == _FIELDS and not any(row[1:])
        size = to_size(*row[_FIELDS:]) if len(row) == _FIELDS_WITH_SIZE else None
        yield Row(source, row[0], None if is_empty else _object(source, row, known_classes), size)


def _object(source: str, row: list[str], known_classes: set[str] | None) -> RawObject:
    label: str | Issue = row[5] if len(row) > 5 else ""
    if known_classes is not None and label not in known_classes:
        label = Issue("unknown_class", f"class {show_value(label)!r} is not in the class file")
    return object_record(source, label, _box(row))


def _box(row: list[str]) -> Box | Issue:
    box = box_from_corners(row[1:5])
    if isinstance(box, Issue) or len(row) not in (_FIELDS, _FIELDS_WITH_SIZE) or not row[5]:
        return Issue("invalid_record", f"{show_value(row)} is not path,x1,y1,x2,y2,class")
    return box
