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
from pipeline.formats.classes import numbered, present
from pipeline.formats.folders import by_folder
from pipeline.formats.images import ImageFiles, head, listed, tail
from pipeline.formats.naming import is_text, shown
from pipeline.formats.records import Box, Fault, RawDataset, RawImage, RawObject, RawSplit
from pipeline.formats.shapes import Point, around, around_circle

_SNIFF = 1 << 16  # bytes at either end of a file; between them may lie a whole embedded picture
_SHAPES = re.compile(rb'"shapes"\s*:\s*\[')
_IMAGE = re.compile(rb'"(imagePath|imageData|imageHeight)"\s*:')
# Shapes that enclose an area, with the least number of points that they need.
_AREAS = {"rectangle": 2, "polygon": 3, "circle": 2, "mask": 2, "oriented_rectangle": 3, "rotation": 3}


def evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next((file for file in files if _sniff(folder / file)), None)


def read(folder: Path) -> RawDataset:
    """Reads every file below `folder`; each folder of them is a split, one alone is `all`.

    Raises:
        PipelineError: there is none.
    """
    files = listed(folder)
    images = ImageFiles(files)
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
    called = present(image for split in splits.values() for image in split)
    whole = {name: RawSplit(tuple(split)) for name, split in splits.items()}
    return RawDataset(numbered(sorted(called)), whole, images.count)


def _sniff(path: Path) -> bool:
    if path.suffix.lower() != ".json":
        return False
    start = head(path, _SNIFF)
    ends = start + tail(path, _SNIFF)
    return start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and bool(_SHAPES.search(ends) and _IMAGE.search(ends))


def _image(folder: Path, file: PurePosixPath, images: ImageFiles) -> RawImage | None:
    """None for JSON that is another tool's."""
    try:
        content = read_json(folder / file)
    except PipelineError as error:
        return RawImage(str(file), "", fault=Fault("invalid_record", str(error).partition(": ")[2]))
    except OSError as error:
        return RawImage(str(file), "", fault=Fault("invalid_record", f"can't be read: {error.strerror}"))
    if not isinstance(content, dict) or "shapes" not in content:
        return None
    shapes, name = content["shapes"], content.get("imagePath")
    if not isinstance(shapes, list) or not isinstance(name, str) or not name:
        return RawImage(str(file), "", fault=Fault("invalid_record", "it needs a list of shapes and an imagePath"))
    path = images.named(name, file.parent)
    if isinstance(path, Fault) and path.code == "missing_image":  # renamed together with the annotation
        again = images.of_stem(file.stem, file.parent)
        path = path if isinstance(again, Fault) else again
    objects = tuple(_object(file, number, shape) for number, shape in enumerate(shapes, 1))
    if isinstance(path, Fault):
        return RawImage(str(file), "", None, _declared(content), objects, path)
    return RawImage(str(file), path, None, _declared(content), objects)


def _declared(content: dict[str, Any]) -> tuple[int, int] | None:
    width, height = content.get("imageWidth"), content.get("imageHeight")
    whole = isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0
    return (width, height) if whole else None  # type: ignore[return-value]


def _object(file: PurePosixPath, number: int, shape: Any) -> RawObject:
    where = f"{file}: shape {number}"
    label = shape.get("label") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip() or not is_text(label):
        return RawObject(
            where, "", (0, 0, 0, 0), fault=Fault("invalid_record", f"it needs a label, has {shown(label)}")
        )
    box = _box(shape.get("shape_type") or "polygon", shape.get("points"))  # files of before 2018 have polygons only
    if isinstance(box, Fault):
        return RawObject(where, "", (0, 0, 0, 0), fault=box)
    return RawObject(where, label.strip(), box, difficult=int(_difficult(shape)))


def _difficult(shape: dict[str, Any]) -> bool:
    """A flag of the person's own, or the field that X-AnyLabeling adds."""
    flags = shape.get("flags")
    return shape.get("difficult") is True or (isinstance(flags, dict) and flags.get("difficult") is True)


def _box(kind: Any, points: Any) -> Box | Fault:
    if not isinstance(kind, str) or kind not in _AREAS:
        return Fault("invalid_record", f"its shape_type {shown(kind)} has no area; known ones: {', '.join(_AREAS)}")
    pairs = [_point(point) for point in points] if isinstance(points, list) else []
    corners = [pair for pair in pairs if pair is not None]
    if len(corners) < len(pairs) or len(corners) < _AREAS[kind]:
        return Fault("invalid_record", f"its points are not the {_AREAS[kind]} or more pairs of numbers of a {kind}")
    return around_circle(corners[0], corners[1]) if kind == "circle" else around(corners)


def _point(value: Any) -> Point | None:
    if not isinstance(value, Sequence) or len(value) != 2:
        return None
    try:
        x, y = (float(side) for side in value if isinstance(side, (int, float)) and not isinstance(side, bool))
    except (ValueError, OverflowError):
        return None
    return (x, y)
