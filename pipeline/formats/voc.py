"""Pascal VOC's XML, one file an image: the devkit, a plain pair of folders, or annotations beside the images.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2007/devkit_doc_07-Jun-2007.pdf. Coordinates there are 1-based and
inclusive: pixel columns xmin to xmax, that is, from edge xmin − 1 to edge xmax.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipeline.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.images import ImageFiles, listed
from pipeline.formats.records import Box, Fault, RawDataset, RawImage, RawObject, RawSplit

# fmt: off
NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
_ROOT = re.compile(rb"<annotation[\s>]")
_DEVKIT = re.compile(r"VOC20\d\d")
_CLASS_LIST = re.compile(r".+_(train|val|trainval|test)")
_UNFIT = (0.0, 0.0, 0.0, 0.0)


def evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next((file for file in files if _is_annotation(folder / file)), None)


def read(folder: Path) -> RawDataset:
    """Reads every annotation below `folder`.

    A folder of annotations with lists beside it (`../ImageSets/Main/*.txt`) has those as its splits; without lists
    it is one split, called by its folder's name where there are several such folders, else `all`. Of several
    folders with lists, each list is called FOLDER/LIST: VOC2007/trainval.

    Raises:
        PipelineError: there is no annotation, or a list is not text.
    """
    files = listed(folder)
    images = ImageFiles(files)
    rooms: dict[PurePosixPath, dict[str, RawImage]] = {
        file.parent: {} for file in files if _is_annotation(folder / file)
    }
    for file in files:
        if file.suffix.lower() == ".xml" and file.parent in rooms:  # a broken one among annotations is one too
            rooms[file.parent][file.stem] = _image(folder, file, images)
    if not rooms:
        raise PipelineError(f"{folder}: no Pascal VOC annotation found: .xml files with an <annotation> each")
    splits: dict[str, RawSplit] = {}
    for room, annotated in rooms.items():
        prefix = f"{_room_name(room)}/" if len(rooms) > 1 else ""
        lists = _lists(folder, room, files)
        for name, stems in lists.items():
            splits[prefix + name] = RawSplit(tuple(_listed(stems, annotated, f"{room.parent}/…/{name}.txt")))
        if not lists:
            splits[prefix.rstrip("/") or "all"] = RawSplit(tuple(annotated.values()))
    return RawDataset(_categories(rooms), splits, images.count)


def _is_annotation(path: Path) -> bool:
    if path.suffix.lower() != ".xml":
        return False
    with path.open("rb") as file:
        return bool(_ROOT.search(file.read(4096)))


def _room_name(room: PurePosixPath) -> str:
    plain = room.name.lower() in ("annotations", "annotation", "xmls", "labels")
    return _room_name(room.parent) if plain and room.parent.name else str(room.name)


def _lists(folder: Path, room: PurePosixPath, files: list[PurePosixPath]) -> dict[str, list[str]]:
    """Image names by the list's name; the lists of single classes (`cat_train.txt`) are none of ours."""
    homes = (room.parent / "ImageSets" / "Main", room.parent / "ImageSets")
    texts = [[file for file in files if file.parent == home and file.suffix == ".txt"] for home in homes]
    lists: dict[str, list[str]] = {}
    for file in texts[0] or texts[1]:
        try:
            lines = [line.strip() for line in (folder / file).read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError:
            raise PipelineError(f"{file}: not a list of image names: it is not UTF-8 text") from None
        lines = [line for line in lines if line]
        # "000012 -1": whether the image shows the class.
        one_class = _CLASS_LIST.fullmatch(file.stem) and all(line.split()[-1] in ("-1", "0", "1") for line in lines)
        if not one_class:
            lists[file.stem] = lines
    return lists


def _listed(names: list[str], annotated: dict[str, RawImage], where: str) -> Iterable[RawImage]:
    for name in names:
        stem = PurePosixPath(name).name
        known = [key for key in (stem, PurePosixPath(stem).stem, stem.split()[0]) if key in annotated]
        if known:
            yield annotated[known[0]]
        else:
            yield RawImage(f"{where}: {name}", "", fault=Fault("missing_annotation", "its annotation is not there"))


def _categories(rooms: dict[PurePosixPath, dict[str, RawImage]]) -> tuple[Category, ...]:
    """VOC's classes in VOC's order, all twenty where it is VOC's own devkit; any others by the alphabet."""
    annotated = (image for images in rooms.values() for image in images.values())
    present = {item.name for image in annotated for item in image.objects if item.fault is None}
    devkit = any(_DEVKIT.fullmatch(part) for room in rooms for part in room.parts)
    voc = [name for name in NAMES if devkit or name in present]
    names = voc if present <= set(NAMES) else sorted(present)
    return tuple(Category(number, name) for number, name in enumerate(names, 1))


def _image(folder: Path, file: PurePosixPath, images: ImageFiles) -> RawImage:
    root = _parsed(folder / file)
    if isinstance(root, Fault):
        return RawImage(str(file), "", fault=root)
    objects = tuple(_object(file, number, found) for number, found in enumerate(root.findall("object"), 1))
    declared = _declared(root)
    # The annotation's own name comes first: <filename> often still says what the image was once called.
    path = images.of_stem(file.stem, file.parent)
    name = root.findtext("filename", "").strip()
    if isinstance(path, Fault) and name:
        path = images.named(name, file.parent)
    if isinstance(path, Fault):
        return RawImage(str(file), "", None, declared, objects, path)
    return RawImage(str(file), path, None, declared, objects)


def _parsed(path: Path) -> Element | Fault:
    try:
        root: Element = fromstring(path.read_bytes())
    except ParseError as error:
        line, column = error.position
        return Fault("xml", f"not XML: {str(error).split(':')[0]} at line {line} column {column + 1}")
    except DefusedXmlException as error:
        return Fault("xml", f"not read: it declares entities or other things unfit for data ({type(error).__name__})")
    except (LookupError, ValueError) as error:  # an unknown or wrong encoding
        return Fault("xml", f"not XML: {error}")
    return root if root.tag == "annotation" else Fault("xml", f"its root is <{root.tag}>, not <annotation>")


def _declared(root: Element) -> tuple[int, int] | None:
    try:
        width, height = (int(float(root.findtext(f"size/{side}", ""))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None  # some tools write 0 for "I didn't look"


def _object(file: PurePosixPath, number: int, found: Element) -> RawObject:
    where = f"{file}: object {number}"
    name = found.findtext("name", "").strip()
    box = _box(found)
    if isinstance(box, Fault):
        return RawObject(where, "", _UNFIT, fault=box)
    if not name:
        return RawObject(where, "", box, fault=Fault("record", "it has no <name>"))
    return RawObject(where, name, box, difficult=int(found.findtext("difficult", "0").strip() in ("1", "True", "true")))


def _box(found: Element) -> Box | Fault:
    values: list[Any] = [found.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        xmin, ymin, xmax, ymax = (float(value) for value in values)
    except (TypeError, ValueError):
        return Fault("record", f"its <bndbox> has xmin, ymin, xmax, ymax {values}, not four numbers")
    return (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1)
