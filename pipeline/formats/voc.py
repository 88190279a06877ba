"""Reader of Pascal VOC's XML, one file per image: the devkit, two plain folders, or annotations beside the images.

Format: http://host.robots.ox.ac.uk/pascal/VOC/voc2007/devkit_doc_07-Jun-2007.pdf. Coordinates are 1-based and
inclusive: pixel columns xmin to xmax extend from edge xmin − 1 to edge xmax. Some tools write 0-based edges into the
same elements, which can't be recognized: their boxes come out one pixel larger, toward the left and the top. Boxes of
parts (`<part>`: a person's head) are ignored.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import XML, Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.classes import collect_class_names, number_categories
from pipeline.formats.dataset_files import Spellings, list_files, read_head, read_lines
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
from pipeline.formats.split_kinds import split_kind
from pipeline.formats.split_names import name_splits_by_folder
from pipeline.formats.text import show_value

# fmt: off
CLASS_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
ROOT = re.compile(rb"<annotation[\s>]")
LABELME_ELEMENT = re.compile(rb"<pt>|<segm>|<nrows>|<sourceAnnotation>\s*LabelMe")
_DEVKIT = re.compile(r"VOC20\d\d")
_CLASS_LIST = re.compile(r".+_(train|val|trainval|test)")
_SPLIT = re.compile(r"(train|val|valid|validation|trainval|test)[-_]?(\d{4})?", re.IGNORECASE)
_ANNOTATION_FOLDERS = {"annotations", "annotation", "xmls", "xml", "labels"}
# Entities need a document type, which would appear in plain text in a file of one of these encodings.
_PLAIN_ENCODING = re.compile(
    rb"""\s*(<\?xml version=["'][\d.]+["'](\s+encoding=["'](utf-8|us-ascii)["'])?\s*\?>|<[^?!])""", re.IGNORECASE
)

ImagesByFile = dict[PurePosixPath, RawImage]  # by annotation file


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    """The first annotation with a box; if there is none, the first of all, unless others are LabelMe's."""
    first, has_labelme = None, False
    for file in _xml_files(files):
        head = read_head(folder / file)
        if ROOT.search(head):
            if b"<bndbox" in head:
                return file
            has_labelme = has_labelme or LABELME_ELEMENT.search(head) is not None
            first = first or file
    return None if has_labelme else first


def read(folder: Path) -> RawDataset:
    """Reads all annotations below `folder`.

    The splits of a folder of annotations are the lists beside it (`../ImageSets/Main/*.txt`). Without lists, its
    subfolders called train, val or test are splits, and its other files are a split named after the folder, or called
    `all` if there is only one folder of annotations. If there are several folders with lists, each split is called
    FOLDER/LIST: VOC2007/trainval.

    Raises:
        PipelineError: There is no annotation, or a list isn't text.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    by_folder = _read_folders(folder, files, images)
    if not by_folder:
        raise PipelineError(f"{folder}: no Pascal VOC annotation found: .xml files with an <annotation>, one per image")
    titles = name_splits_by_folder(by_folder) if len(by_folder) > 1 else dict.fromkeys(by_folder, "")
    texts: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        if file.suffix.lower() == ".txt":
            texts[file.parent].append(file)
    splits: dict[str, list[RawImage]] = defaultdict(list)
    for annotations, by_file in by_folder.items():
        lists = _read_lists(folder, annotations, texts)
        parts = _split_by_list(lists, annotations, by_file) if lists else _split_by_folder(annotations, by_file)
        for name, part in parts.items():
            splits["/".join(filter(None, (titles[annotations], name))) or "all"] += part
    raw_splits = {name: RawSplit(tuple(part)) for name, part in splits.items()}
    return RawDataset(_categories(by_folder), raw_splits, images.count)


def _xml_files(files: list[PurePosixPath]) -> Iterator[PurePosixPath]:
    return (file for file in files if file.suffix.lower() == ".xml")


def _read_folders(folder: Path, files: list[PurePosixPath], images: ImageIndex) -> dict[PurePosixPath, ImagesByFile]:
    """The annotations of each folder of annotations, at any depth, including damaged files among them."""
    by_parent: dict[PurePosixPath, ImagesByFile] = defaultdict(dict)
    for file in _xml_files(files):
        by_parent[file.parent][file] = _image(folder, file, images)
    by_folder: dict[PurePosixPath, ImagesByFile] = defaultdict(dict)
    for parent, by_file in by_parent.items():
        if any(not _is_other_xml(folder / file, image) for file, image in by_file.items()):
            by_folder[_annotation_folder(parent)].update(by_file)
    return dict(by_folder)


def _is_other_xml(path: Path, image: RawImage) -> bool:
    return image.issue is not None and image.issue.code == "invalid_xml" and not ROOT.search(read_head(path))


def _annotation_folder(parent: PurePosixPath) -> PurePosixPath:
    """`x/Annotations` for `x/Annotations/deep/down`; the folder itself if no part of its path is called so."""
    return next((path for path in (parent, *parent.parents) if path.name.lower() in _ANNOTATION_FOLDERS), parent)


def _read_lists(
    folder: Path, annotations: PurePosixPath, texts: dict[PurePosixPath, list[PurePosixPath]]
) -> dict[str, list[str]]:
    """Image names by the list's name. Lists of single classes (`cat_train.txt`) are a fallback."""
    image_sets = annotations.parent / "ImageSets"
    lists: dict[str, list[str]] = {}
    class_lists: dict[str, dict[str, None]] = defaultdict(dict)
    for file in texts.get(image_sets / "Main") or texts.get(image_sets) or ():
        lines = read_lines(folder, file)
        match = _CLASS_LIST.fullmatch(file.stem)
        # A line "000012 -1" says whether the image shows the class.
        if match and lines and all(line.split()[-1] in ("-1", "0", "1") for line in lines):
            class_lists[match[1]].update(dict.fromkeys(line.rsplit(maxsplit=1)[0] for line in lines))
        else:
            lists[file.stem] = lines
    return lists or {name: list(names) for name, names in class_lists.items()}


def _split_by_list(
    lists: dict[str, list[str]], annotations: PurePosixPath, by_file: ImagesByFile
) -> dict[str, tuple[RawImage, ...]]:
    by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in by_file:
        by_stem[file.stem].append(file)
    known = {stem: by_file[files[0]] if len(files) == 1 else _ambiguous(files) for stem, files in by_stem.items()}
    known |= {str(file.relative_to(annotations).with_suffix("")): image for file, image in by_file.items()}
    sources = {name: str(annotations.parent / "…" / f"{name}.txt") for name in lists}
    return {name: tuple(_listed_images(entries, known, sources[name])) for name, entries in lists.items()}


def _ambiguous(files: list[PurePosixPath]) -> RawImage:
    """The record of a list's entry that matches files in several folders."""
    return invalid_image(str(files[0]), f"a list has {files[0].stem}, which matches both {files[0]} and {files[1]}")


def _listed_images(entries: Iterable[str], known: dict[str, RawImage], source: str) -> Iterable[RawImage]:
    spellings = Spellings(known)
    for entry in entries:
        path = PurePosixPath(entry)
        first = PurePosixPath(entry.split()[0])
        without_suffix = str(path.with_suffix("")) if path.name else entry
        keys = (entry, without_suffix, path.name, path.stem, str(first), first.stem)
        key = next((key for key in keys if key in known), None) or next(filter(None, map(spellings.find, keys)), None)
        if key is not None:
            yield known[key]
        else:
            issue = Issue("missing_annotation", "annotation not found")
            yield image_record(f"{source}: {show_value(entry)}", issue)


def _split_by_folder(annotations: PurePosixPath, by_file: ImagesByFile) -> dict[str, tuple[RawImage, ...]]:
    splits: dict[str, list[RawImage]] = defaultdict(list)
    subfolders = {file: file.relative_to(annotations).parent.parts for file in by_file}
    all_purposeful = all(parts and split_kind(parts[0]) for parts in subfolders.values())
    for file, image in by_file.items():
        name = next((part for part in subfolders[file] if _SPLIT.fullmatch(part)), "")
        splits[name or (subfolders[file][0] if all_purposeful else "")].append(image)
    return {name: tuple(images) for name, images in splits.items()}


def _categories(by_folder: dict[PurePosixPath, ImagesByFile]) -> tuple[Category, ...]:
    """VOC's classes in VOC's order, all 20 in its own devkit; all classes sorted by name if any other one occurs."""
    names = collect_class_names(image for by_file in by_folder.values() for image in by_file.values())
    is_devkit = any(_DEVKIT.fullmatch(part) for folder in by_folder for part in folder.parts)
    voc = [name for name in CLASS_NAMES if is_devkit or name in names]
    return number_categories(voc if names <= set(CLASS_NAMES) else sorted(names))


def _image(folder: Path, file: PurePosixPath, images: ImageIndex) -> RawImage:
    root = parse_annotation(folder / file)
    if isinstance(root, Issue):
        return image_record(str(file), root)
    prefix = f"{file}: object "
    items = _children(root, "object")
    objects = tuple(_object(f"{prefix}{number}", item) for number, item in enumerate(items, 1))
    # The annotation's own name comes first: <filename> is often the name before the image was renamed.
    path = images.find_stem(file.stem, file.parent)
    name = _child_texts(root).get("filename", "")
    if isinstance(path, Issue) and name:
        path = images.find(name, file.parent)
    return image_record(str(file), path, None, _declared_size(next(_children(root, "size"), None)), objects)


def parse_annotation(path: Path) -> Element | Issue:
    """The root element of an annotation, or the issue of a file that can't be read or has another root."""
    try:
        content = path.read_bytes()
        if not content.strip():
            return Issue("invalid_xml", "the file is empty")
        # defusedxml takes three times as long, because it inspects every declaration.
        is_safe = b"<!DOCTYPE" not in content and b"\0" not in content and _PLAIN_ENCODING.match(content)
        root: Element = XML(content) if is_safe else fromstring(content)
    except OSError as error:
        return Issue("invalid_xml", f"can't be read: {error.strerror}")
    except ParseError as error:
        line, column = error.position
        return Issue("invalid_xml", f"not XML: {str(error).split(':')[0]} at line {line} column {column + 1}")
    except DefusedXmlException as error:
        return Issue("invalid_xml", f"not read: unsafe XML declarations ({type(error).__name__})")
    except (LookupError, ValueError) as error:  # an unknown or wrong encoding
        return Issue("invalid_xml", f"not XML: {error}")
    if root.tag != "annotation":
        return Issue("invalid_xml", f"the root element is <{show_value(root.tag)}>, not <annotation>")
    return root


def _children(element: Element, tag: str) -> Iterator[Element]:
    """The children with this tag in lower case: some tools write <Object>."""
    return (child for child in element if child.tag.lower() == tag)


def _child_texts(element: Element | None) -> dict[str, str]:
    """The text of each child by its tag in lower case; that of the first child if several have the same tag."""
    return {} if element is None else {child.tag.lower(): (child.text or "").strip() for child in reversed(element)}


def _declared_size(element: Element | None) -> tuple[int, int] | None:
    size = _child_texts(element)
    try:
        width, height = (int(float(size.get(side, ""))) for side in ("width", "height"))
    except (ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None  # some tools write 0 for an unknown size


def _object(source: str, element: Element) -> RawObject:
    texts = _child_texts(element)
    box = _box(_child_texts(next(_children(element, "bndbox"), None)))
    if isinstance(box, Issue):
        return invalid_object(source, box)
    name = texts.get("name", "")
    if not name:
        return invalid_object(source, Issue("invalid_record", "has no <name>"), box)
    return RawObject(source, name, box, difficult=int(texts.get("difficult") in ("1", "True", "true")))


def _box(corners: dict[str, str]) -> Box | Issue:
    values = [corners.get(name) for name in ("xmin", "ymin", "xmax", "ymax")]
    try:
        # Decimal, so that 0.1 + 1 − 1 is exactly 0.1.
        xmin, ymin, xmax, ymax = (Decimal(value or "") for value in values)
        box = (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1)
    except ArithmeticError:
        return Issue("invalid_record", f"<bndbox> has xmin, ymin, xmax, ymax {show_value(values)}, not four numbers")
    left, top, width, height = map(float, box)
    return (left, top, width, height)
