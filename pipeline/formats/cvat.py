"""Reader of CVAT's XML, version 1.1: `CVAT for images`, and `CVAT for video` with its frames as image files.

Format: https://docs.cvat.ai/docs/dataset_management/formats/format-cvat/. Coordinates are pixel edges, 0-based.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipeline.errors import PipelineError
from pipeline.formats.classes import collect_class_names, number_categories
from pipeline.formats.dataset_files import list_files, read_head
from pipeline.formats.image_index import ImageIndex
from pipeline.formats.records import (
    Box,
    Issue,
    RawDataset,
    RawImage,
    RawObject,
    RawSplit,
    image_record,
    invalid_image,
    invalid_object,
)
from pipeline.formats.shapes import box_around_ellipse, box_around_points, box_around_rotated
from pipeline.formats.split_names import name_splits_by_file
from pipeline.formats.text import show_value

_ROOT = re.compile(rb"<annotations[^>]*>\s*(?:<!--.*?-->\s*)*<version>\s*1\.", re.DOTALL)
_SHAPES = ("box", "polygon", "ellipse", "mask", "polyline", "points", "cuboid", "skeleton")
_FRAME = re.compile(r"frame_(\d{6,18})", re.ASCII)
_TRUE = ("1", "true", "True")


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next((file for file in files if _is_annotation(folder / file)), None)


def read(folder: Path) -> RawDataset:
    """Reads all CVAT files below `folder`.

    An image's `subset` is its split. An image without subset is in a split named after its file, or after the file's
    folder if the file's name is a generic one. The classes are the labels that the files define, in their order, or the
    class names of the objects if the files define none. Tags of whole images are ignored.

    Raises:
        PipelineError: There is no such file, or a file isn't XML.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    roots = {file: _parse(folder, file) for file in files if _is_annotation(folder / file)}
    if not roots:
        raise PipelineError(f"{folder}: no CVAT annotations found: an .xml file with <annotations> and a <version>")
    labels = _labels(roots.values())
    split_names = name_splits_by_file({file: file.stem for file in roots})
    splits: dict[str, list[RawImage]] = defaultdict(list)
    for file, root in roots.items():
        for subset, image in _images(file, root, labels, images):
            splits[subset or split_names[file]].append(image)
    names = labels or sorted(collect_class_names(image for split in splits.values() for image in split))
    raw_splits = {name: RawSplit(tuple(split)) for name, split in splits.items()}
    return RawDataset(number_categories(names), raw_splits, images.count)


def _is_annotation(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and bool(_ROOT.search(read_head(path)))


def _parse(folder: Path, file: PurePosixPath) -> Element:
    try:
        root: Element = fromstring((folder / file).read_bytes())
    except ParseError as error:
        line, column = error.position
        raise PipelineError(f"{file}: not XML: {str(error).split(':')[0]} at line {line} column {column + 1}") from None
    except DefusedXmlException as error:
        raise PipelineError(f"{file}: not read: unsafe XML declarations ({type(error).__name__})") from None
    except (LookupError, ValueError) as error:  # an unknown or wrong encoding
        raise PipelineError(f"{file}: not XML: {error}") from None
    except OSError as error:
        raise PipelineError(f"{file}: can't be read: {error.strerror}") from None
    return root


def _labels(roots: Iterable[Element]) -> list[str]:
    """The labels that the files define, without the joints of skeletons."""
    labels = (label for root in roots for label in root.iterfind("meta//labels/label"))
    names = (label.findtext("name", "").strip() for label in labels if not label.findtext("parent", "").strip())
    return list(dict.fromkeys(name for name in names if name))


def _images(
    file: PurePosixPath, root: Element, labels: list[str], images: ImageIndex
) -> Iterable[tuple[str, RawImage]]:
    """Images with their subsets, which may be empty."""
    for number, element in enumerate(root.iterfind("image"), 1):
        subset = _subset(element)
        yield subset, _image(file, number, element, subset, labels, images)
    tracks = root.findall("track")
    if tracks:
        yield from _frames(file, root, tracks, labels, images)


def _subset(element: Element) -> str:
    return " ".join(element.get("subset", "").split())


def _image(
    file: PurePosixPath, number: int, element: Element, subset: str, labels: list[str], images: ImageIndex
) -> RawImage:
    name = element.get("name", "")
    source = f"{file}: image {show_value(name) or number}"
    if not name:
        return invalid_image(source, "needs a name")
    shapes = (shape for shape in element if shape.tag in _SHAPES)
    objects = tuple(_object(f"{source}: shape {index}", shape, labels) for index, shape in enumerate(shapes, 1))
    path = images.find(name, file.parent, subset)
    return image_record(source, path, _integer(element, "id"), _declared_size(element), objects)


def _frames(
    file: PurePosixPath, root: Element, tracks: list[Element], labels: list[str], images: ImageIndex
) -> Iterable[tuple[str, RawImage]]:
    """The frames of a video that have objects, and those within its length that exist as image files."""
    if len(root.findall("meta//task")) > 1:
        raise PipelineError(
            f"{file}: tracks of several tasks, whose frame numbers overlap; export each task separately"
        )
    objects: dict[int, list[RawObject]] = defaultdict(list)
    subset = ""
    for number, track in enumerate(tracks, 1):
        subset = subset or _subset(track)
        for shape in (item for item in track if item.tag in _SHAPES and item.get("outside") not in _TRUE):
            source = f"{file}: track {number}: frame {show_value(shape.get('frame', ''))}"
            frame = _integer(shape, "frame")
            if frame is None:
                yield subset, invalid_image(source, "the frame is not a number")
            else:
                objects[frame].append(_object(source, shape, labels, track.get("label", "")))
    length = _video_length(root)
    # Only existing frames: the length in the file may be any number.
    existing = {int(match[1]) for stem in images.stems if (match := _FRAME.fullmatch(stem))}
    for frame in sorted({*objects, *(frame for frame in existing if frame < length)}):
        path = images.find_stem(f"frame_{frame:06d}", file.parent)
        if frame in objects or not isinstance(path, Issue):
            yield subset, image_record(f"{file}: frame {frame}", path, objects=tuple(objects[frame]))


def _video_length(root: Element) -> int:
    size = root.findtext("meta//size", "").strip()
    return int(size) if size.isascii() and size.isdigit() and len(size) < 10 else 0


def _object(source: str, shape: Element, labels: list[str], label: str = "") -> RawObject:
    name = (label or shape.get("label", "")).strip()
    box = _box(shape)
    if isinstance(box, Issue):
        return invalid_object(source, box)
    if not name:
        return invalid_object(source, Issue("invalid_record", "has no label"), box)
    if labels and name not in labels:
        message = f"label {show_value(name)} is not in the file's list of labels"
        return invalid_object(source, Issue("unknown_class", message), box)
    attributes = {item.get("name", "").lower(): (item.text or "").strip() for item in shape.iterfind("attribute")}
    crowd = attributes.get("is_crowd", attributes.get("iscrowd")) in _TRUE
    return RawObject(source, name, box, iscrowd=int(crowd), difficult=int(attributes.get("difficult") in _TRUE))


def _box(shape: Element) -> Box | Issue:
    """The bounding box of a shape that has an area."""
    try:
        if shape.tag == "box":
            left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
            degrees = float(shape.get("rotation", "0"))
            box = (left, top, right - left, bottom - top)
            return box_around_rotated(box, degrees) if degrees % 180 else box
        if shape.tag == "polygon":
            pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
            return box_around_points([(float(x), float(y)) for x, y in pairs])
        if shape.tag == "ellipse":
            x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
            return box_around_ellipse((x, y), (rx, ry), float(shape.get("rotation", "0")))
        if shape.tag == "mask":
            left, top, width, height = _numbers(shape, "left", "top", "width", "height")
            return (left, top, width, height)
    except (KeyError, ValueError):  # the math functions raise ValueError for an infinite angle
        attributes = show_value(dict(shape.attrib))
        return Issue("invalid_record", f"<{shape.tag}> has a missing or invalid number: {attributes}")
    return Issue("invalid_record", f"<{shape.tag}> has no area, so it has no box")


def _numbers(shape: Element, *names: str) -> list[float]:
    return [float(shape.attrib[name]) for name in names]


def _declared_size(element: Element) -> tuple[int, int] | None:
    width, height = _integer(element, "width"), _integer(element, "height")
    return (width, height) if width and height else None


def _integer(element: Element, name: str) -> int | None:
    text = element.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
