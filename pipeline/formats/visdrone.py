"""Reader of VisDrone's text files for detection in images, one per image, one line of eight numbers per object.

Format: http://aiskyeye.com/evaluate/results-format_2021/. The numbers are left, top, width, height, score, category,
truncation, occlusion. A score of 0 means that the object is ignored in the evaluation: it becomes difficult. Category
0, ignored regions, becomes a crowd of every class.
"""

from pathlib import Path, PurePosixPath

from pipeline.formats.layouts import find_text_files, read_image_files, text_image
from pipeline.formats.records import (
    Issue,
    RawDataset,
    RawObject,
    ignored_region,
    invalid_object,
    object_record,
)
from pipeline.formats.text import show_value
from pipeline.formats.values import box_from_size

CLASS_NAMES = (
    "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle", "bus", "motor", "others",
)  # fmt: skip
_COLUMNS = 8
_IGNORED = "0"  # category of ignored regions


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_text_files(folder, files, _is_annotation, whole_folders=True)


def read(folder: Path) -> RawDataset:
    """Reads all folders of annotations below `folder`, each as a split.

    Raises:
        PipelineError: There is no such file.
    """
    expected = "VisDrone annotation: .txt files with lines of eight numbers, left,top,width,height,score,category,…"
    return read_image_files(
        folder, find_annotations, lambda file: text_image(file, _object), expected, class_names=CLASS_NAMES
    )


def _is_annotation(lines: list[str]) -> bool:
    """Whether the first line has eight integers, with a score, category, truncation and occlusion in their ranges."""
    columns = _split(lines[0]) if lines else []
    if len(columns) != _COLUMNS or not all(column.lstrip("-").isdecimal() for column in columns):
        return False
    score, category, truncation, occlusion = columns[4:]
    is_category = len(category) <= 2 and int(category) <= len(CLASS_NAMES)
    return score in ("0", "1") and is_category and truncation in ("0", "1") and occlusion in ("0", "1", "2")


def _split(line: str) -> list[str]:
    """The columns of a line; some have a comma at their end."""
    return [column.strip() for column in line.strip().rstrip(",").split(",")]


def _object(source: str, line: str) -> RawObject:
    columns = _split(line)
    if len(columns) != _COLUMNS:
        return invalid_object(source, Issue("invalid_record", f"has {len(columns)} columns, not {_COLUMNS}"))
    box = box_from_size(columns[:4])
    score, category = columns[4:6]
    if category == _IGNORED:
        return ignored_region(source, box)
    names = {str(number): name for number, name in enumerate(CLASS_NAMES, 1)}
    unknown = Issue("unknown_class", f"category {show_value(category)} is none of 0 to {len(CLASS_NAMES)}")
    return object_record(source, names.get(category, unknown), box, difficult=int(score == "0"))
