"""Reader of Label Studio's JSON and JSON-MIN: a list of tasks with regions in percent of the image's size.

Format: https://labelstud.io/guide/export and https://labelstud.io/tags/rectanglelabels. A rotated rectangle turns about
its top left corner, clockwise. Of several annotations of a task, the first one that isn't cancelled is read.
"""

import math
import re
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.formats.image_index import IMAGE_SUFFIXES
from pipeline.formats.layouts import AnnotationFile, find_json_files, json_image, read_split_files
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, RawSplit, object_record
from pipeline.formats.shapes import Point, box_around_ellipse, box_around_points
from pipeline.formats.values import box_from_size, lookup, to_label, to_number, to_size

_LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels", "brushlabels", "keypointlabels")
_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # of the name of an uploaded file


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_json_files(folder, files, _is_annotation)


def read(folder: Path) -> RawDataset:
    """Reads all Label Studio files below `folder`, each as a split.

    Raises:
        PipelineError: There is no such file, or a file isn't JSON.
    """
    expected = "Label Studio export: a .json list of tasks with rectanglelabels, polygonlabels or ellipselabels"
    return read_split_files(folder, find_annotations, _read_split, expected)


def _is_annotation(head: bytes) -> bool:
    has_labels = any(f'"{key}"'.encode() in head for key in _LABELS[:3])
    return head.startswith(b"[") and has_labels and b'"original_width"' in head


def _read_split(annotations: AnnotationFile) -> RawSplit:
    tasks = annotations.read_json()
    if not isinstance(tasks, list):
        raise PipelineError(f"{annotations.file}: not a list of tasks, as Label Studio has it")
    return RawSplit(
        tuple(_image(annotations, f"{annotations.file}: task {number}", task) for number, task in enumerate(tasks, 1))
    )


def _image(annotations: AnnotationFile, source: str, task: Any) -> RawImage:
    regions = _regions(task)
    first = regions[0] if isinstance(regions, list) and regions else None
    size = to_size(lookup(first, "original_width"), lookup(first, "original_height"))
    name = _image_name(lookup(task, "data") or task)
    record = json_image(annotations, source, name, regions, _object, size)
    if record.issue and record.issue.code == "missing_image" and name:
        without_prefix = _UPLOAD_PREFIX.sub("", PurePosixPath(name).name)
        return json_image(annotations, source, without_prefix, regions, _object, size)
    return record


def _image_name(data: Any) -> str | None:
    """The value that is an image's path, under any key."""
    values = data.values() if isinstance(data, dict) else ()
    return next((v for v in values if isinstance(v, str) and PurePosixPath(v).suffix.lower() in IMAGE_SUFFIXES), None)


def _regions(task: Any) -> Any:
    """The regions of a task, or of a line of JSON-MIN, where they are the value of any key."""
    versions = lookup(task, "annotations")
    if isinstance(versions, list):
        valid = (version for version in versions if not lookup(version, "was_cancelled"))
        return next((lookup(version, "result") for version in valid), [])
    lists = [value for value in (task.values() if isinstance(task, dict) else ()) if isinstance(value, list)]
    return next((values for values in lists if any(lookup(item, "original_width") for item in values)), [])


def _object(source: str, region: Any) -> RawObject | None:
    value = lookup(region, "value") or region
    labels = next((names for key in _LABELS if (names := lookup(value, key)) is not None), None)
    if labels is None and isinstance(region, dict):
        return None  # a choice or a text
    label = to_label(labels[0] if isinstance(labels, list) and len(labels) == 1 else labels)
    size = to_size(lookup(region, "original_width"), lookup(region, "original_height"))
    if size is None:
        return object_record(source, label, Issue("invalid_record", "needs original_width and original_height"))
    return object_record(source, label, _box(value, size))


def _box(value: Any, size: tuple[int, int]) -> Box | Issue:
    scale_x, scale_y = size[0] / 100, size[1] / 100
    degrees = to_number(lookup(value, "rotation")) or 0.0
    points = lookup(value, "points")
    if isinstance(points, list):
        pairs = [pair for point in points if (pair := _pair(point))]
        if len(pairs) < 3 or len(pairs) < len(points):
            return Issue("invalid_record", "a polygon needs three or more points")
        return box_around_points([(x * scale_x, y * scale_y) for x, y in pairs])
    is_ellipse = lookup(value, "radiusX") is not None
    names = ("x", "y", "radiusX", "radiusY") if is_ellipse else ("x", "y", "width", "height")
    numbers = box_from_size([lookup(value, name) for name in names], names)
    if isinstance(numbers, Issue):
        return numbers
    x, y, width, height = numbers[0] * scale_x, numbers[1] * scale_y, numbers[2] * scale_x, numbers[3] * scale_y
    if not degrees or not math.isfinite(degrees):
        return (x - width, y - height, 2 * width, 2 * height) if is_ellipse else (x, y, width, height)
    if is_ellipse:
        return box_around_ellipse((x, y), (width, height), degrees)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    right, down = (width * cosine, width * sine), (-height * sine, height * cosine)
    corners = [(0.0, 0.0), right, down, (right[0] + down[0], right[1] + down[1])]
    return box_around_points([(x + dx, y + dy) for dx, dy in corners])


def _pair(value: Any) -> Point | None:
    numbers = [number for item in value if (number := to_number(item)) is not None] if isinstance(value, list) else []
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None
