"""Reader of CSV tables, one row per object, as TensorFlow's tutorials, Roboflow, VoTT and makesense.ai write them.

Formats: https://docs.roboflow.com/developer/reference/annotation-formats, `xml_to_csv.py` in
https://github.com/datitran/raccoon_dataset (`filename,width,height,class,xmin,ymin,xmax,ymax`), VoTT's
`image,xmin,ymin,xmax,ymax,label`, makesense.ai's `label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,…`.
Two of these tables are read without their header, too. Coordinates are pixel edges, 0-based: TensorFlow divides them by
the image's size, and takes xmax − xmin as the width.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.formats.csv_files import read_first_row, read_rows
from pipeline.formats.dataset_files import list_files
from pipeline.formats.image_index import IMAGE_SUFFIXES
from pipeline.formats.layouts import AnnotationFile, Row, group_rows, read_split_files
from pipeline.formats.records import Issue, RawDataset, RawObject, RawSplit, invalid_object, object_record
from pipeline.formats.values import box_from_corners, box_from_size, to_label, to_number, to_size

# Names of columns in lower case, with _ between words.
_IMAGE = ("filename", "file_name", "file", "image", "image_name", "image_path", "path", "filepath", "file_path", "img",
          "img_name", "img_path", "image_id", "external_id")  # fmt: skip
_CLASS = ("class", "class_name", "classname", "label", "label_name", "name", "category", "category_name", "class_id",
          "classid", "label_id", "category_id")  # fmt: skip
_CORNERS = (
    ("xmin", "ymin", "xmax", "ymax"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("x1", "y1", "x2", "y2"),
    ("left", "top", "right", "bottom"),
    ("bbox_xmin", "bbox_ymin", "bbox_xmax", "bbox_ymax"),
    ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"),
    ("roi_x1", "roi_y1", "roi_x2", "roi_y2"),
)
_SIZES = (
    ("bbox_x", "bbox_y", "bbox_width", "bbox_height"),
    ("bbox_left", "bbox_top", "bbox_width", "bbox_height"),
    ("left", "top", "width", "height"),
    ("xmin", "ymin", "width", "height"),
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
)
_LIST = ("bbox",)  # "[left, top, width, height]" in one column, as in Kaggle's global wheat detection
# Tables that are also written without a header; `retinanet` reads another one.
_HEADERLESS = (
    ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"),
    ("label_name", "bbox_x", "bbox_y", "bbox_width", "bbox_height", "image_name", "image_width", "image_height"),
)
_SCORES = {"score", "confidence", "conf", "probability"}
_UNNAMED_CLASS = "object"
_IMAGE_SIZES = (("image_width", "image_height"), ("img_width", "img_height"), ("width", "height"))
_SUFFIX = re.compile(r"(?<=[^-_ ])[-_ ](labels?|annotations?|bbox(es)?)$", re.IGNORECASE)


@dataclass(frozen=True)
class _Header:
    """The positions of a table's columns."""

    length: int
    image: int
    label: int | None  # None: all objects are of one class
    box: tuple[int, ...]
    box_names: tuple[str, ...]
    size: tuple[int, ...]  # of the image; empty if there are no such columns


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    tables = [file for file in files if file.suffix.lower() in (".csv", ".tsv")]
    return [file for file in tables if _find_header(read_first_row(folder, file)) is not None]


def read(folder: Path) -> RawDataset:
    """Reads all tables below `folder`, each as a split. A row without coordinates is an image without objects.

    Raises:
        PipelineError: There is no such table, or a file isn't CSV.
    """
    expected = "table of boxes: a .csv with a header such as filename,width,height,class,xmin,ymin,xmax,ymax"
    tables = find_annotations(folder, list_files(folder))
    headers = {file: _find_header(read_first_row(folder, file)) for file in tables}
    remarks = [
        f"{file}: no column names a class, so all objects are of one class, {_UNNAMED_CLASS!r}"
        for file, header in headers.items()
        if header and header.label is None
    ]
    return read_split_files(folder, find_annotations, _read_table, expected, stem=_stem, remarks=remarks)


def _stem(file: PurePosixPath) -> str:
    """`train` of train_labels.csv."""
    return _SUFFIX.sub("", file.stem)


def _find_header(first_row: Sequence[str]) -> _Header | None:
    """The columns of a table, by its header or by the values of its first row."""
    headerless = (columns for columns in _HEADERLESS if _fits(first_row, columns))
    return _parse_header(first_row) or next(map(_parse_header, headerless), None)


def _fits(row: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a row's values are an image and numbers where a table without header has them."""
    if len(row) != len(columns):
        return False
    named = dict(zip(columns, row, strict=True))
    is_image = {name: PurePosixPath(value).suffix.lower() in IMAGE_SUFFIXES for name, value in named.items()}
    numbers = {name for name, value in named.items() if to_number(value) is not None}
    return all(is_image[name] if name in _IMAGE else name in _CLASS or name in numbers for name in columns)


def _parse_header(row: Sequence[str]) -> _Header | None:
    """The columns that a header names; None if it lacks those of an image and a box, or has scores of detections."""
    names = [re.sub(r"\W+", "_", name.strip().lower()) for name in row]
    image = next((name for name in _IMAGE if name in names), None)
    label = next((name for name in _CLASS if name in names), None)
    box = next((columns for columns in (*_CORNERS, *_SIZES, _LIST) if set(columns) <= set(names)), None)
    if image is None or box is None or _SCORES & set(names):
        return None
    size = next((columns for columns in _IMAGE_SIZES if set(columns) <= set(names) - set(box)), ())
    position = {name: index for index, name in reversed(list(enumerate(names)))}
    box_columns, size_columns = (tuple(position[name] for name in columns) for columns in (box, size))
    return _Header(len(row), position[image], position[label] if label else None, box_columns, box, size_columns)


def _read_table(annotations: AnnotationFile) -> RawSplit:
    return group_rows(annotations, _read_rows(annotations))


def _read_rows(annotations: AnnotationFile) -> Iterator[Row]:
    rows = read_rows(annotations.folder, annotations.file)
    first = next(rows)
    header = _find_header(first[1])
    if header is None:
        raise PipelineError(f"{annotations.file}: its first row is not a header with an image and a box")
    if _parse_header(first[1]) is None:
        rows = chain([first], rows)
    for line, row in rows:
        source = f"{annotations.file}: line {line}"
        if len(row) > header.image:
            size = (
                to_size(*(row[column] for column in header.size)) if header.size and len(row) == header.length else None
            )
            yield Row(source, row[header.image], _object(source, row, header), size)


def _object(source: str, row: list[str], header: _Header) -> RawObject | None:
    if len(row) != header.length:
        message = f"has {len(row)} fields while the header has {header.length}"
        return invalid_object(source, Issue("invalid_record", message))
    values = [row[column] for column in header.box]
    if not any(values):
        return None
    label = _UNNAMED_CLASS if header.label is None else to_label(row[header.label])
    if header.box_names == _LIST:
        return object_record(source, label, box_from_size(values[0].strip("[]() ").split(",")))
    read_box = box_from_corners if header.box_names in _CORNERS else box_from_size
    return object_record(source, label, read_box(values, header.box_names))
