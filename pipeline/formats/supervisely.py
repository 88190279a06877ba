"""Reader of Supervisely's JSON: a file `IMAGE.json` for each image, and classes in meta.json.

Format: https://docs.supervisely.com/customization-and-integration/00_ann_format_navi/04_supervisely_format_objects.
Points are pixels inside the figure, 0-based: Supervisely's SDK takes right − left + 1 as the width. A bitmap has the
position of its first pixel and a compressed PNG.
"""

import base64
import io
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import PIL.Image

from pipeline.errors import PipelineError
from pipeline.files import read_json
from pipeline.formats.dataset_files import list_files
from pipeline.formats.layouts import AnnotationFile, find_json_files, json_image, read_image_files
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, object_record
from pipeline.formats.shapes import box_around_points
from pipeline.formats.text import show_value
from pipeline.formats.values import lookup, to_label, to_number, to_size

# The figures that enclose an area and have corners, with their minimum number.
_FIGURES = {"rectangle": 2, "polygon": 3}
_LARGEST_MASK = 1 << 24  # bytes of a decompressed PNG


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_json_files(folder, files, _is_annotation, whole_folders=True)


def read(folder: Path) -> RawDataset:
    """Reads all annotations below `folder`. Each folder of them (`DATASET/ann`) is a split.

    Raises:
        PipelineError: There is no such file, or meta.json isn't JSON.
    """
    expected = "Supervisely annotation: .json files with size, tags and objects, one for each image"
    return read_image_files(folder, find_annotations, _read_image, expected, class_names=_read_class_names(folder))


def _is_annotation(head: bytes) -> bool:
    if not (head.startswith(b"{") and b'"size"' in head and b'"objects"' in head):
        return False
    return (b'"tags"' in head and b'"description"' in head) or (b'"classTitle"' in head and b'"geometryType"' in head)


def _read_class_names(folder: Path) -> list[str]:
    """The classes in the order of the first meta.json; empty if there is none."""
    meta = next((file for file in list_files(folder) if file.name == "meta.json"), None)
    if meta is None:
        return []
    try:
        classes = lookup(read_json(folder / meta), "classes")
    except (PipelineError, OSError) as error:
        raise PipelineError(str(error).replace(str(folder / meta), str(meta))) from None
    names = (to_label(lookup(item, "title")) for item in (classes if isinstance(classes, list) else ()))
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _read_image(annotations: AnnotationFile) -> RawImage:
    content = annotations.try_read_json()
    objects = content if isinstance(content, Issue) else lookup(content, "objects")
    size = to_size(lookup(content, "size", "width"), lookup(content, "size", "height"))
    return json_image(annotations, str(annotations.file), annotations.file.stem, objects, _object, size)


def _object(source: str, item: Any) -> RawObject:
    kind = lookup(item, "geometryType") or lookup(item, "type") or ("bitmap" if lookup(item, "bitmap") else "polygon")
    return object_record(source, to_label(lookup(item, "classTitle")), _box(kind, item))


def _box(kind: Any, item: Any) -> Box | Issue:
    if kind == "bitmap":
        return _box_of_bitmap(lookup(item, "bitmap"))
    if not isinstance(kind, str) or kind not in _FIGURES:
        return Issue("invalid_record", f"figure {show_value(kind)} has no area; supported: rectangle, polygon, bitmap")
    points = lookup(item, "points", "exterior")
    pairs = [_point(point) for point in points] if isinstance(points, list) else []
    corners = [pair for pair in pairs if pair is not None]
    if len(corners) < len(pairs) or len(corners) < _FIGURES[kind]:
        return Issue("invalid_record", f"a {kind} needs {_FIGURES[kind]} or more points")
    left, top, width, height = box_around_points(corners)
    return (left, top, width + 1, height + 1)


def _point(value: Any) -> tuple[float, float] | None:
    numbers = [to_number(number) for number in value] if isinstance(value, list) and len(value) == 2 else []
    return (numbers[0], numbers[1]) if len(numbers) == 2 and None not in numbers else None  # type: ignore[return-value]


def _box_of_bitmap(bitmap: Any) -> Box | Issue:
    origin, data = _point(lookup(bitmap, "origin")), lookup(bitmap, "data")
    try:
        content = zlib.decompressobj().decompress(base64.b64decode(data), _LARGEST_MASK)
        with PIL.Image.open(io.BytesIO(content)) as mask:
            width, height = mask.size
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise many types of exceptions
        return Issue("invalid_record", f"the bitmap can't be read: {type(error).__name__}")
    if origin is None:
        return Issue("invalid_record", "the bitmap needs an origin")
    return (*origin, float(width), float(height))
