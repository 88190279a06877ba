"""Reader of DOTA's text files, one per image: four corners, a class and a difficulty per object.

Format: https://captain-whu.github.io/DOTA/dataset.html. The boxes are oriented; their upright bounding boxes are read.
Corners are edges in pixels, 0-based. Lines `imagesource:…` and `gsd:…` may come first.
"""

from pathlib import Path, PurePosixPath

from pipeline.formats.layouts import find_text_files, read_image_files, text_image
from pipeline.formats.records import (
    Box,
    Issue,
    RawDataset,
    RawObject,
    object_record,
)
from pipeline.formats.shapes import box_around_points
from pipeline.formats.text import show_value
from pipeline.formats.values import to_number

_CORNERS = 8  # numbers
_HEADERS = ("imagesource", "gsd")
_REMARK = "DOTA's oriented boxes are read as the upright boxes around them"


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_text_files(folder, files, _is_annotation, whole_folders=True)


def read(folder: Path) -> RawDataset:
    """Reads all folders of annotations below `folder`, each as a split.

    Raises:
        PipelineError: There is no such file.
    """
    expected = "DOTA annotation: .txt files with lines x1 y1 x2 y2 x3 y3 x4 y4 class difficult"
    return read_image_files(
        folder, find_annotations, lambda file: text_image(file, _object), expected, remarks=[_REMARK]
    )


def _is_annotation(lines: list[str]) -> bool:
    columns = next((line.split() for line in lines if not _is_header(line)), [])
    is_object = len(columns) in (_CORNERS + 1, _CORNERS + 2) and to_number(columns[_CORNERS]) is None
    return is_object and not isinstance(_box(columns), Issue)


def _is_header(line: str) -> bool:
    return line.partition(":")[0].strip().lower() in _HEADERS


def _object(source: str, line: str) -> RawObject | None:
    if _is_header(line):
        return None
    columns = line.split()
    label: str | Issue = Issue("invalid_record", "has no class")
    if len(columns) > _CORNERS:
        label = columns[_CORNERS]
    is_difficult = len(columns) > _CORNERS + 1 and columns[_CORNERS + 1] != "0"
    return object_record(source, label, _box(columns), difficult=int(is_difficult))


def _box(columns: list[str]) -> Box | Issue:
    numbers = [number for column in columns[:_CORNERS] if (number := to_number(column)) is not None]
    if len(numbers) < _CORNERS:
        return Issue("invalid_record", f"{show_value(' '.join(columns))} does not begin with four corners")
    return box_around_points(list(zip(numbers[::2], numbers[1::2], strict=True)))
