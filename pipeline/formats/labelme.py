"""Reader of LabelMe's JSON: one file per image, with shapes given by points.

Format: https://github.com/wkentaro/labelme. Points are in pixels, 0-based, measured at pixel edges.
"""

import base64
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import read_json
from pipeline.formats.dataset_files import read_head, read_tail
from pipeline.formats.image_index import IMAGE_SUFFIXES, ImageIndex
from pipeline.formats.layouts import AnnotationFile, find_annotation, find_annotation_folders, read_image_files
from pipeline.formats.records import (
    Box,
    Issue,
    RawDataset,
    RawImage,
    RawObject,
    image_record,
    invalid_image,
    invalid_object,
)
from pipeline.formats.shapes import Point, box_around_circle, box_around_points
from pipeline.formats.text import is_utf8, show_value
from pipeline.formats.values import lookup, to_size

_SNIFFED_BYTES = 1 << 16  # at both ends of a file: an embedded image may lie between them
_SHAPES = re.compile(rb'"shapes"\s*:\s*\[')
_IMAGE = re.compile(rb'"(imagePath|imageData|imageHeight)"\s*:')
# The shapes that enclose an area, with their minimum number of points.
_AREAS = {"rectangle": 2, "polygon": 3, "circle": 2, "mask": 2, "oriented_rectangle": 3, "rotation": 3}


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return find_annotation(files, ".json", lambda file: _is_annotation(folder / file))


def read(folder: Path) -> RawDataset:
    """Reads all LabelMe files below `folder`. Each folder of them is a split; a single one is called `all`.

    Raises:
        PipelineError: There is no such file.
    """
    return read_image_files(folder, _find, _image, "LabelMe files: a .json with shapes and an imagePath for each image")


def _find(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    """All files of folders with LabelMe files, so that a damaged one is reported."""
    groups = find_annotation_folders(files, ".json", lambda file: _is_annotation(folder / file))
    return [file for group in groups.values() for file in group]


def embedded_images(folder: Path, files: list[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Yields the images that exist only as `imageData`: the path of a file beside the annotation, and its content."""
    images = ImageIndex(files)
    for file in _find(folder, files):
        if isinstance(images.find_stem(file.stem, file.parent), str):
            continue  # the usual case, without reading the file
        try:
            content = read_json(folder / file)
            name, data = lookup(content, "imagePath"), lookup(content, "imageData")
            image = base64.b64decode(data, validate=True) if isinstance(data, str) else b""
        except (PipelineError, OSError, ValueError):
            continue  # an issue when it is read
        if image and isinstance(name, str) and isinstance(images.find(name, file.parent), Issue):
            suffix = PurePosixPath(name.replace("\\", "/")).suffix
            yield file.with_suffix(suffix if suffix.lower() in IMAGE_SUFFIXES else ".jpg"), image


def _is_annotation(path: Path) -> bool:
    start = read_head(path, _SNIFFED_BYTES)
    ends = start + read_tail(path, _SNIFFED_BYTES)
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and bool(_SHAPES.search(ends) and _IMAGE.search(ends))


def _image(annotations: AnnotationFile) -> RawImage | None:
    """The record of one file; None if the JSON is another tool's."""
    content, source = annotations.try_read_json(), str(annotations.file)
    if isinstance(content, Issue):
        return image_record(source, content)
    if not isinstance(content, dict) or "shapes" not in content:
        return None
    shapes, name = content["shapes"], content.get("imagePath")
    if not isinstance(shapes, list) or not isinstance(name, str) or not name:
        return invalid_image(source, "needs a list of shapes and an imagePath")
    path = annotations.find_image(name)
    if isinstance(path, Issue) and path.code == "missing_image":  # the image was renamed together with its annotation
        by_stem = annotations.find_image(annotations.file.stem)
        path = path if isinstance(by_stem, Issue) else by_stem
    objects = tuple(_object(f"{source}: shape {number}", shape) for number, shape in enumerate(shapes, 1))
    return image_record(source, path, None, _declared_size(content), objects)


def _declared_size(content: dict[str, Any]) -> tuple[int, int] | None:
    return to_size(content.get("imageWidth"), content.get("imageHeight"))


def _object(source: str, shape: Any) -> RawObject:
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip() or not is_utf8(label):
        return invalid_object(source, Issue("invalid_record", f"needs a label, has {show_value(label)}"))
    box = _box(shape.get("shape_type") or "polygon", shape.get("points"))  # files from before 2018 have no shape_type
    if isinstance(box, Issue):
        return invalid_object(source, box)
    return RawObject(source, label.strip(), box, difficult=int(_is_difficult(shape)))


def _is_difficult(shape: dict[str, Any]) -> bool:
    """Whether the shape has a flag `difficult`, or the field of that name that X-AnyLabeling writes."""
    flags = shape.get("flags")
    return shape.get("difficult") is True or (isinstance(flags, dict) and flags.get("difficult") is True)


def _box(kind: Any, points: Any) -> Box | Issue:
    if not isinstance(kind, str) or kind not in _AREAS:
        message = f"shape_type {show_value(kind)} has no area; supported: {', '.join(_AREAS)}"
        return Issue("invalid_record", message)
    pairs = [_point(point) for point in points] if isinstance(points, list) else []
    corners = [pair for pair in pairs if pair is not None]
    if len(corners) < len(pairs) or len(corners) < _AREAS[kind]:
        return Issue("invalid_record", f"points of a {kind} must be {_AREAS[kind]} or more pairs of numbers")
    return box_around_circle(corners[0], corners[1]) if kind == "circle" else box_around_points(corners)


def _point(value: Any) -> Point | None:
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    try:
        x, y = (float(number) for number in value if isinstance(number, (int, float)) and not isinstance(number, bool))
    except (ValueError, OverflowError):
        return None
    return (x, y)
