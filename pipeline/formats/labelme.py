"""LabelMe's JSON, one file an image: shapes by their points.

Format: https://github.com/wkentaro/labelme. Points are in pixels, 0-based, from the pixels' edges.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import read_json
from pipeline.formats.classes import class_names, number_categories
from pipeline.formats.folders import by_folder
from pipeline.formats.image_index import ImageIndex, list_files, read_head, read_tail
from pipeline.formats.naming import is_utf8, show_value
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, RawSplit
from pipeline.formats.shapes import Point, box_around_circle, box_around_points

_SNIFF = 1 << 16  # bytes at either end of a file; between them may lie a whole embedded picture
_SHAPES = re.compile(rb'"shapes"\s*:\s*\[')
_IMAGE = re.compile(rb'"(imagePath|imageData|imageHeight)"\s*:')
# Shapes that enclose an area, with the least number of points that they need.
_AREAS = {"rectangle": 2, "polygon": 3, "circle": 2, "mask": 2, "oriented_rectangle": 3, "rotation": 3}


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next((file for file in files if _sniff(folder / file)), None)


def read(folder: Path) -> RawDataset:
    """Reads every file below `folder`; each folder of them is a split, one alone is `all`.

    Raises:
        PipelineError: there is none.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    rooms: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        if file.suffix.lower() == ".json":
            rooms[file.parent].append(file)
    # A damaged file among annotations is one, too.
    rooms = {room: own for room, own in rooms.items() if any(_sniff(folder / file) for file in own)}
    if not rooms:
        raise PipelineError(f"{folder}: no LabelMe files found: a .json with shapes and an imagePath for each image")
    splits: dict[str, list[RawImage]] = defaultdict(list)
    for room, name in by_folder(sorted(rooms)).items():
        found = (_image(folder, file, images) for file in rooms[room])
        splits[name] += [image for image in found if image is not None]
    called = class_names(image for split in splits.values() for image in split)
    whole = {name: RawSplit(tuple(split)) for name, split in splits.items()}
    return RawDataset(number_categories(sorted(called)), whole, images.count)


def _sniff(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    start = read_head(path, _SNIFF)
    ends = start + read_tail(path, _SNIFF)
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and bool(_SHAPES.search(ends) and _IMAGE.search(ends))


def _image(folder: Path, file: PurePosixPath, images: ImageIndex) -> RawImage | None:
    """None for JSON that is another tool's."""
    try:
        content = read_json(folder / file)
    except PipelineError as error:
        return RawImage(str(file), "", issue=Issue("invalid_record", str(error).partition(": ")[2]))
    except OSError as error:
        return RawImage(str(file), "", issue=Issue("invalid_record", f"can't be read: {error.strerror}"))
    if not isinstance(content, dict) or "shapes" not in content:
        return None
    shapes, name = content["shapes"], content.get("imagePath")
    if not isinstance(shapes, list) or not isinstance(name, str) or not name:
        return RawImage(str(file), "", issue=Issue("invalid_record", "it needs a list of shapes and an imagePath"))
    path = images.find(name, file.parent)
    if isinstance(path, Issue) and path.code == "missing_image":  # renamed together with the annotation
        again = images.find_stem(file.stem, file.parent)
        path = path if isinstance(again, Issue) else again
    objects = tuple(_object(file, number, shape) for number, shape in enumerate(shapes, 1))
    if isinstance(path, Issue):
        return RawImage(str(file), "", None, _declared(content), objects, path)
    return RawImage(str(file), path, None, _declared(content), objects)


def _declared(content: dict[str, Any]) -> tuple[int, int] | None:
    width, height = content.get("imageWidth"), content.get("imageHeight")
    whole = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
    return (width, height) if whole else None  # type: ignore[return-value]


def _object(file: PurePosixPath, number: int, shape: Any) -> RawObject:
    source = f"{file}: shape {number}"
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip() or not is_utf8(label):
        return RawObject(
            source, "", (0, 0, 0, 0), issue=Issue("invalid_record", f"it needs a label, has {show_value(label)}")
        )
    box = _box(shape.get("shape_type") or "polygon", shape.get("points"))  # files of before 2018 have polygons only
    if isinstance(box, Issue):
        return RawObject(source, "", (0, 0, 0, 0), issue=box)
    return RawObject(source, label.strip(), box, difficult=int(_difficult(shape)))


def _difficult(shape: dict[str, Any]) -> bool:
    """A flag of the person's own, or the field that X-AnyLabeling adds."""
    flags = shape.get("flags")
    return shape.get("difficult") is True or (isinstance(flags, dict) and flags.get("difficult") is True)


def _box(kind: Any, points: Any) -> Box | Issue:
    if not isinstance(kind, str) or kind not in _AREAS:
        return Issue(
            "invalid_record", f"its shape_type {show_value(kind)} has no area; known ones: {', '.join(_AREAS)}"
        )
    pairs = [_point(point) for point in points] if isinstance(points, list) else []
    corners = [pair for pair in pairs if pair is not None]
    if len(corners) < len(pairs) or len(corners) < _AREAS[kind]:
        return Issue("invalid_record", f"its points are not the {_AREAS[kind]} or more pairs of numbers of a {kind}")
    return box_around_circle(corners[0], corners[1]) if kind == "circle" else box_around_points(corners)


def _point(value: Any) -> Point | None:
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    try:
        x, y = (float(side) for side in value if isinstance(side, (int, float)) and not isinstance(side, bool))
    except (ValueError, OverflowError):
        return None
    return (x, y)
