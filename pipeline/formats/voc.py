"""Pascal VOC's XML, one file an image: the devkit, a plain pair of folders, or annotations beside the images.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2007/devkit_doc_07-Jun-2007.pdf. Coordinates there are 1-based and
inclusive: pixel columns xmin to xmax, that is, from edge xmin − 1 to edge xmax. Tools that write edges from 0 on
into the same elements leave no sign of it: their boxes come out one pixel further to the left and the top, and larger.
Boxes of parts (`<part>`: a person's head) are no objects.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import XML, Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.classes import class_names, number_categories
from pipeline.formats.image_index import ImageIndex, list_files, read_head
from pipeline.formats.naming import show_value
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, RawSplit
from pipeline.formats.text_files import lines

# fmt: off
NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
_ROOT = re.compile(rb"<annotation[\s>]")
_DEVKIT = re.compile(r"VOC20\d\d")
_CLASS_LIST = re.compile(r".+_(train|val|trainval|test)")
_SPLIT = re.compile(r"(train|val|valid|validation|trainval|test)[-_]?(\d{4})?", re.IGNORECASE)
_ROOMS = {"annotations", "annotation", "xmls", "xml", "labels"}  # what folders of annotations are called
_UNFIT = (0.0, 0.0, 0.0, 0.0)
# Entities want a document type, which would stand there in so many letters.
_PLAIN_ENCODING = re.compile(
    rb"""\s*(<\?xml version=["'][\d.]+["'](\s+encoding=["'](utf-8|us-ascii)["'])?\s*\?>|<[^?!])""", re.IGNORECASE
)


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next((file for file in _xml(files) if _ROOT.search(read_head(folder / file))), None)


def read(folder: Path) -> RawDataset:
    """Reads every annotation below `folder`.

    A folder of annotations with lists beside it (`../ImageSets/Main/*.txt`) has those as its splits. Without lists it
    is one split, called by its folder's name where there are several such folders, else `all`; folders in it that are
    called train, val or test are splits of their own. Of several folders with lists, each list is called FOLDER/LIST:
    VOC2007/trainval.

    Raises:
        PipelineError: there is no annotation, or a list is not text.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    rooms = _rooms(folder, files, images)
    if not rooms:
        raise PipelineError(f"{folder}: no Pascal VOC annotation found: .xml files with an <annotation> each")
    titles = _titles(rooms)
    texts: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        if file.suffix == ".txt":
            texts[file.parent].append(file)
    splits: dict[str, RawSplit] = {}
    for room, annotated in rooms.items():
        lists = _lists(folder, room, texts)
        parts = _by_list(lists, room, annotated) if lists else _by_folder(room, annotated)
        for name, part in parts.items():
            splits["/".join(filter(None, (titles[room], name))) or "all"] = RawSplit(part)
    return RawDataset(_categories(rooms), splits, images.count)


Annotated = dict[PurePosixPath, RawImage]  # by annotation file


def _xml(files: list[PurePosixPath]) -> Iterator[PurePosixPath]:
    return (file for file in files if file.suffix.lower() == ".xml")


def _rooms(folder: Path, files: list[PurePosixPath], images: ImageIndex) -> dict[PurePosixPath, Annotated]:
    """Annotations by the folder that holds them, at whatever depth. A broken file among annotations is one, too."""
    found: dict[PurePosixPath, Annotated] = defaultdict(dict)
    for file in _xml(files):
        found[file.parent][file] = _image(folder, file, images)
    rooms: dict[PurePosixPath, Annotated] = defaultdict(dict)
    for parent, annotated in found.items():
        if any(not _is_other(folder / file, image) for file, image in annotated.items()):
            rooms[_room(parent)].update(annotated)
    return dict(rooms)


def _is_other(path: Path, image: RawImage) -> bool:
    return image.issue is not None and image.issue.code == "invalid_xml" and not _ROOT.search(read_head(path))


def _room(parent: PurePosixPath) -> PurePosixPath:
    """`x/Annotations` for `x/Annotations/deep/down`; the folder itself where none is called so."""
    return next((folder for folder in (parent, *parent.parents) if folder.name.lower() in _ROOMS), parent)


def _titles(rooms: Iterable[PurePosixPath]) -> dict[PurePosixPath, str]:
    """What each folder of annotations is called; a single one needs no name."""
    names = {room: _title(room) for room in rooms}
    if len(names) == 1:
        return dict.fromkeys(names, "")
    uses = Counter(names.values())
    return {room: name if name and uses[name] == 1 else str(room) for room, name in names.items()}


def _title(room: PurePosixPath) -> str:
    plain = room.name.lower() in _ROOMS
    return _title(room.parent) if plain and room.parent.name else str(room.name)


def _lists(folder: Path, room: PurePosixPath, texts: dict[PurePosixPath, list[PurePosixPath]]) -> dict[str, list[str]]:
    """Image names by the list's name. Lists of single classes (`cat_train.txt`) count where there are no others."""
    home = room.parent / "ImageSets"
    lists: dict[str, list[str]] = {}
    of_classes: dict[str, dict[str, None]] = defaultdict(dict)
    for file in texts.get(home / "Main") or texts.get(home) or ():
        rows = lines(folder, file)
        of_class = _CLASS_LIST.fullmatch(file.stem)
        # "000012 -1": whether the image shows the class.
        if of_class and rows and all(row.split()[-1] in ("-1", "0", "1") for row in rows):
            of_classes[of_class[1]].update(dict.fromkeys(row.rsplit(maxsplit=1)[0] for row in rows))
        else:
            lists[file.stem] = rows
    return lists or {name: list(names) for name, names in of_classes.items()}


def _by_list(lists: dict[str, list[str]], room: PurePosixPath, annotated: Annotated) -> dict[str, tuple[RawImage, ...]]:
    stems: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in annotated:
        stems[file.stem].append(file)
    known = {stem: annotated[own[0]] if len(own) == 1 else _either(own) for stem, own in stems.items()}
    known |= {str(file.relative_to(room).with_suffix("")): image for file, image in annotated.items()}
    return {name: tuple(_listed(names, known, f"{room.parent}/…/{name}.txt")) for name, names in lists.items()}


def _either(files: list[PurePosixPath]) -> RawImage:
    """What a list means by a name that several folders have."""
    issue = Issue("invalid_record", f"a list names {files[0].stem}, which may be {files[0]} or {files[1]}")
    return RawImage(str(files[0]), "", issue=issue)


def _listed(names: Iterable[str], known: dict[str, RawImage], source: str) -> Iterable[RawImage]:
    for name in names:
        path = PurePosixPath(name)
        first = PurePosixPath(name.split()[0])
        called = (name, str(path.with_suffix("")) if path.name else name, path.name, path.stem, str(first), first.stem)
        image = next((known[key] for key in called if key in known), None)
        if image is not None:
            yield image
        else:
            issue = Issue("missing_annotation", "its annotation is not there")
            yield RawImage(f"{source}: {show_value(name)}", "", issue=issue)


def _by_folder(room: PurePosixPath, annotated: Annotated) -> dict[str, tuple[RawImage, ...]]:
    parts: dict[str, list[RawImage]] = defaultdict(list)
    for file, image in annotated.items():
        inner = file.relative_to(room).parent.parts
        parts[next((part for part in inner if _SPLIT.fullmatch(part)), "")].append(image)
    return {name: tuple(images) for name, images in parts.items()}


def _categories(rooms: dict[PurePosixPath, Annotated]) -> tuple[Category, ...]:
    """VOC's classes in VOC's order, all twenty where it is VOC's own devkit; any others by the alphabet."""
    found = class_names(image for images in rooms.values() for image in images.values())
    devkit = any(_DEVKIT.fullmatch(part) for room in rooms for part in room.parts)
    voc = [name for name in NAMES if devkit or name in found]
    return number_categories(voc if found <= set(NAMES) else sorted(found))


def _image(folder: Path, file: PurePosixPath, images: ImageIndex) -> RawImage:
    root = _parsed(folder / file)
    if isinstance(root, Issue):
        return RawImage(str(file), "", issue=root)
    source = f"{file}: object "
    objects = tuple(_object(f"{source}{number}", found) for number, found in enumerate(root.findall("object"), 1))
    declared_size = _declared(root.find("size"))
    # The annotation's own name comes first: <filename> often still says what the image was once called.
    path = images.find_stem(file.stem, file.parent)
    name = root.findtext("filename", "").strip()
    if isinstance(path, Issue) and name:
        path = images.find(name, file.parent)
    if isinstance(path, Issue):
        return RawImage(str(file), "", None, declared_size, objects, path)
    return RawImage(str(file), path, None, declared_size, objects)


def _parsed(path: Path) -> Element | Issue:
    try:
        content = path.read_bytes()
        # defusedxml takes three times as long: it has the parser's slow form, to look at each declaration.
        plain = b"<!DOCTYPE" not in content and b"\0" not in content and _PLAIN_ENCODING.match(content)
        root: Element = XML(content) if plain else fromstring(content)
    except OSError as error:
        return Issue("invalid_xml", f"can't be read: {error.strerror}")
    except ParseError as error:
        line, column = error.position
        return Issue("invalid_xml", f"not XML: {str(error).split(':')[0]} at line {line} column {column + 1}")
    except DefusedXmlException as error:
        return Issue(
            "invalid_xml", f"not read: it declares entities or other things unfit for data ({type(error).__name__})"
        )
    except (LookupError, ValueError) as error:  # an unknown or wrong encoding
        return Issue("invalid_xml", f"not XML: {error}")
    return (
        root
        if root.tag == "annotation"
        else Issue("invalid_xml", f"its root is <{show_value(root.tag)}>, not <annotation>")
    )


def _texts(found: Element | None) -> dict[str, str]:
    """What stands in an element's children, by their tags; of two of a kind the first counts."""
    return {} if found is None else {child.tag: (child.text or "").strip() for child in reversed(found)}


def _declared(found: Element | None) -> tuple[int, int] | None:
    size = _texts(found)
    try:
        width, height = (int(float(size.get(side, ""))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None  # some tools write 0 for "I didn't look"


def _object(source: str, found: Element) -> RawObject:
    texts = _texts(found)
    box = _box(_texts(found.find("bndbox")))
    if isinstance(box, Issue):
        return RawObject(source, "", _UNFIT, issue=box)
    name = texts.get("name", "")
    if not name:
        return RawObject(source, "", box, issue=Issue("invalid_record", "it has no <name>"))
    return RawObject(source, name, box, difficult=int(texts.get("difficult") in ("1", "True", "true")))


def _box(sides: dict[str, str]) -> Box | Issue:
    values = [sides.get(side) for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        # Decimals, so that 0.1 + 1 − 1 is 0.1 again.
        xmin, ymin, xmax, ymax = (Decimal(value or "") for value in values)
        box = (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1)
    except ArithmeticError:
        return Issue(
            "invalid_record", f"its <bndbox> has xmin, ymin, xmax, ymax {show_value(values)}, not four numbers"
        )
    left, top, width, height = map(float, box)
    return (left, top, width, height)
