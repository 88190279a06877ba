"""CVAT's own XML, version 1.1: `CVAT for images`, and `CVAT for video` where the frames are there as images.

Format: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/. Coordinates are in pixels, 0-based, from the
pixels' edges.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipeline.errors import PipelineError
from pipeline.formats.classes import class_names, number_categories
from pipeline.formats.image_index import ImageIndex, list_files, read_head
from pipeline.formats.naming import show_value, split_names
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, RawSplit
from pipeline.formats.shapes import box_around_ellipse, box_around_points, box_around_rotated

_ROOT = re.compile(rb"<annotations[^>]*>\s*(?:<!--.*?-->\s*)*<version>\s*1\.", re.DOTALL)
_SHAPES = ("box", "polygon", "ellipse", "mask", "polyline", "points", "cuboid", "skeleton")
_FRAME = re.compile(r"frame_(\d{6,18})", re.ASCII)
_TRUE = ("1", "true", "True")


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next((file for file in files if _sniff(folder / file)), None)


def read(folder: Path) -> RawDataset:
    """Reads every such file below `folder`.

    An image's `subset` is its split. Without one, the file is, called by its name or, where that says nothing, by its
    folder. The classes are the labels that the files define, in their order; where they define none, what objects
    are called. `tag`, which has no place in the image, is left out.

    Raises:
        PipelineError: there is none, or one is not XML.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    roots = {file: _root(folder, file) for file in files if _sniff(folder / file)}
    if not roots:
        raise PipelineError(f"{folder}: no CVAT annotations found: an .xml with <annotations> and its <version>")
    labels = _labels(roots.values())
    names = split_names({file: file.stem for file in roots})
    splits: dict[str, list[RawImage]] = defaultdict(list)
    for file, root in roots.items():
        for subset, image in _images(file, root, labels, images):
            splits[subset or names[file]].append(image)
    called = labels or sorted(class_names(image for found in splits.values() for image in found))
    return RawDataset(
        number_categories(called), {name: RawSplit(tuple(found)) for name, found in splits.items()}, images.count
    )


def _sniff(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and bool(_ROOT.search(read_head(path)))


def _root(folder: Path, file: PurePosixPath) -> Element:
    try:
        root: Element = fromstring((folder / file).read_bytes())
    except ParseError as error:
        line, column = error.position
        raise PipelineError(f"{file}: not XML: {str(error).split(':')[0]} at line {line} column {column + 1}") from None
    except DefusedXmlException as error:
        raise PipelineError(f"{file}: not read: it declares entities or the like ({type(error).__name__})") from None
    except (LookupError, ValueError) as error:  # an unknown or wrong encoding
        raise PipelineError(f"{file}: not XML: {error}") from None
    except OSError as error:
        raise PipelineError(f"{file}: can't be read: {error.strerror}") from None
    return root


def _labels(roots: Iterable[Element]) -> list[str]:
    """The labels that the files define, without the joints of skeletons."""
    found = (label for root in roots for label in root.iterfind("meta//labels/label"))
    names = (label.findtext("name", "").strip() for label in found if not label.findtext("parent", "").strip())
    return list(dict.fromkeys(name for name in names if name))


def _images(
    file: PurePosixPath, root: Element, labels: list[str], images: ImageIndex
) -> Iterable[tuple[str, RawImage]]:
    """Images, each with its subset, which may be empty."""
    for number, record in enumerate(root.iterfind("image"), 1):
        subset = _subset(record)
        yield subset, _image(file, number, record, subset, labels, images)
    tracks = root.findall("track")
    if tracks:
        yield from _frames(file, root, tracks, labels, images)


def _subset(record: Element) -> str:
    return " ".join(record.get("subset", "").split())


def _image(
    file: PurePosixPath, number: int, record: Element, subset: str, labels: list[str], images: ImageIndex
) -> RawImage:
    name = record.get("name", "")
    source = f"{file}: image {show_value(name) or number}"
    if not name:
        return RawImage(source, "", issue=Issue("invalid_record", "it needs a name"))
    shapes = (shape for shape in record if shape.tag in _SHAPES)
    objects = tuple(_object(f"{source}: shape {place}", shape, labels) for place, shape in enumerate(shapes, 1))
    path = images.find(name, file.parent, subset)
    own, declared_size = _whole(record, "id"), _declared(record)
    if isinstance(path, Issue):
        return RawImage(source, "", own, declared_size, objects, path)
    return RawImage(source, path, own, declared_size, objects)


def _frames(
    file: PurePosixPath, root: Element, tracks: list[Element], labels: list[str], images: ImageIndex
) -> Iterable[tuple[str, RawImage]]:
    """A video's frames: those with objects, and those of its length that are there as images."""
    if len(root.findall("meta//task")) > 1:
        raise PipelineError(f"{file}: it has the tracks of several tasks, whose frames mix; export each task by itself")
    objects: dict[int, list[RawObject]] = defaultdict(list)
    subset = ""
    for number, track in enumerate(tracks, 1):
        subset = subset or _subset(track)
        for shape in (one for one in track if one.tag in _SHAPES and one.get("outside") not in _TRUE):
            source = f"{file}: track {number}: frame {show_value(shape.get('frame', ''))}"
            frame = _whole(shape, "frame")
            item = _object(source, shape, labels, track.get("label", ""))
            if frame is None:
                yield subset, RawImage(source, "", issue=Issue("invalid_record", "its frame is no number"))
            else:
                objects[frame].append(item)
    length = _length(root)
    # Those that are there, not all that a length may promise: it may be any number.
    there = {int(found[1]) for stem in images.stems if (found := _FRAME.fullmatch(stem))}
    for frame in sorted({*objects, *(frame for frame in there if frame < length)}):
        path = images.find_stem(f"frame_{frame:06d}", file.parent)
        source = f"{file}: frame {frame}"
        if not isinstance(path, Issue):
            yield subset, RawImage(source, path, objects=tuple(objects[frame]))
        elif frame in objects:
            yield subset, RawImage(source, "", objects=tuple(objects[frame]), issue=path)


def _length(root: Element) -> int:
    size = root.findtext("meta//size", "").strip()
    return int(size) if size.isascii() and size.isdigit() and len(size) < 10 else 0


def _object(source: str, shape: Element, labels: list[str], label: str = "") -> RawObject:
    name = (label or shape.get("label", "")).strip()
    box = _box(shape)
    if isinstance(box, Issue):
        return RawObject(source, "", (0, 0, 0, 0), issue=box)
    if not name:
        return RawObject(source, "", box, issue=Issue("invalid_record", "it has no label"))
    if labels and name not in labels:
        return RawObject(
            source, "", box, issue=Issue("unknown_class", f"its label {show_value(name)} is not in the file's list")
        )
    said = {one.get("name", "").lower(): (one.text or "").strip() for one in shape.iterfind("attribute")}
    crowd = said.get("is_crowd", said.get("iscrowd")) in _TRUE
    return RawObject(source, name, box, iscrowd=int(crowd), difficult=int(said.get("difficult") in _TRUE))


def _box(shape: Element) -> Box | Issue:
    """The box around a shape that has an area."""
    try:
        if shape.tag == "box":
            left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
            turn = float(shape.get("rotation", "0"))
            box = (left, top, right - left, bottom - top)
            return box_around_rotated(box, turn) if turn % 180 else box
        if shape.tag == "polygon":
            pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
            return box_around_points([(float(x), float(y)) for x, y in pairs])
        if shape.tag == "ellipse":
            x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
            return box_around_ellipse((x, y), (rx, ry), float(shape.get("rotation", "0")))
        if shape.tag == "mask":
            left, top, width, height = _numbers(shape, "left", "top", "width", "height")
            return (left, top, width, height)
    except (TypeError, ValueError):  # math's functions refuse an infinite angle with a ValueError
        return Issue(
            "invalid_record",
            f"its <{shape.tag}> lacks a number, or has one that isn't: {show_value(dict(shape.attrib))}",
        )
    return Issue("invalid_record", f"a <{shape.tag}> has no area to draw a box around")


def _numbers(shape: Element, *names: str) -> list[float]:
    return [float(shape.attrib[name]) if name in shape.attrib else _lacking(name) for name in names]


def _lacking(name: str) -> float:
    raise ValueError(name)


def _declared(record: Element) -> tuple[int, int] | None:
    width, height = _whole(record, "width"), _whole(record, "height")
    return (width, height) if width and height else None


def _whole(record: Element, name: str) -> int | None:
    text = record.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
