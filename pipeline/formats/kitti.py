"""KITTI's object labels: one text file an image, fifteen columns a line.

Format: the development kit of https://www.cvlibs.net/datasets/kitti/eval_object.php (readme.txt). Columns are type,
truncated, occluded, alpha, left, top, right, bottom, and seven of three dimensions. Coordinates are 0-based, and the
kit's own overlap takes right − left as the width.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.classes import class_names, number_categories
from pipeline.formats.folders import by_folder
from pipeline.formats.image_index import ImageIndex, list_files, read_head
from pipeline.formats.naming import show_value
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, RawSplit
from pipeline.formats.text_files import lines

NAMES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
REGION = "DontCare"  # an area whose objects nobody annotated
_COLUMNS = 15
_SAMPLE = 20  # files of a folder to look into: the first may be of images without objects


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return next(iter(_rooms(folder, files).values()), None)


def read(folder: Path) -> RawDataset:
    """Reads every folder of labels below `folder`.

    A folder with lists beside it or one above (`ImageSets/*.txt`) has those as its splits, without `test` for KITTI's
    `training` folder, whose test images are others; without lists it is one split, called by its folder.
    A `DontCare` area is a crowd of every class: KITTI's evaluation, too, counts no detection there as wrong.

    Raises:
        PipelineError: there is no such folder, or a list is not text.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    rooms = list(_rooms(folder, files))
    if not rooms:
        raise PipelineError(f"{folder}: no KITTI labels found: .txt files with {_COLUMNS} columns a line")
    annotated = {room: _annotated(folder, room, files, images) for room in rooms}
    categories = _categories(annotated.values())
    splits: dict[str, list[RawImage]] = defaultdict(list)
    for room, name in by_folder(rooms).items():
        whole = {stem: _with_regions(image, categories) for stem, image in annotated[room].items()}
        prefix = f"{name}/" if len(rooms) > 1 else ""
        lists = _lists(folder, room, files)
        for listing, stems in lists.items():
            splits[prefix + listing.stem] += _listed(stems, whole, listing)
        if not lists:
            splits[name] += whole.values()
    return RawDataset(categories, {name: RawSplit(tuple(found)) for name, found in splits.items()}, images.count)


def _rooms(folder: Path, files: list[PurePosixPath]) -> dict[PurePosixPath, PurePosixPath]:
    """Folders of labels, each with a file that shows it."""
    texts: dict[PurePosixPath, list[PurePosixPath]] = {}
    for file in files:
        if file.suffix == ".txt":
            texts.setdefault(file.parent, []).append(file)
    shown = {room: next((file for file in own[:_SAMPLE] if _shows(folder / file)), None) for room, own in texts.items()}
    return {room: file for room, file in shown.items() if file is not None}


def _shows(path: Path) -> bool:
    """Whether the first line is one of KITTI's, by its columns and their ranges."""
    first = read_head(path).split(b"\n")[0].decode("utf-8-sig", "replace").split()
    if len(first) != _COLUMNS or _number(first[0]) is not None:
        return False
    numbers = [_number(column) for column in first[1:]]
    return None not in numbers and numbers[1] in (-1.0, 0.0, 1.0, 2.0, 3.0)


def _annotated(
    folder: Path, room: PurePosixPath, files: list[PurePosixPath], images: ImageIndex
) -> dict[str, RawImage]:
    labels = (file for file in files if file.parent == room and file.suffix == ".txt")
    return {label.stem: _image(folder, label, images) for label in labels}


def _image(folder: Path, label: PurePosixPath, images: ImageIndex) -> RawImage:
    path = images.find_stem(label.stem, _pictures(label.parent))
    if isinstance(path, Issue):
        return RawImage(str(label), "", issue=path)
    try:
        rows = lines(folder, label)
    except PipelineError:
        return RawImage(str(label), "", issue=Issue("invalid_record", "it is not UTF-8 text"))
    return RawImage(str(label), path, objects=tuple(_object(label, number, row) for number, row in enumerate(rows, 1)))


def _pictures(room: PurePosixPath) -> PurePosixPath:
    """label_2 annotates image_2, the left color camera; image_3 has pictures of the same names."""
    return room.parent / room.name.replace("label", "image")


def _object(label: PurePosixPath, number: int, row: str) -> RawObject:
    source = f"{label}: object {number}"
    name, *columns = row.split()
    box = _box(columns)
    if isinstance(box, Issue):
        return RawObject(source, "", (0, 0, 0, 0), issue=box)
    return RawObject(source, name, box)


def _box(columns: Sequence[str]) -> Box | Issue:
    if len(columns) != _COLUMNS - 1:
        return Issue("invalid_record", f"it has {len(columns) + 1} columns, not {_COLUMNS}")
    sides = [_number(column) for column in columns[3:7]]
    left, top, right, bottom = (side if side is not None else float("nan") for side in sides)
    if None in sides:
        return Issue(
            "invalid_record", f"its left, top, right, bottom are {show_value(' '.join(columns[3:7]))}, not four numbers"
        )
    return (left, top, right - left, bottom - top)


def _with_regions(image: RawImage, categories: Sequence[Category]) -> RawImage:
    """The image with each DontCare area as a crowd of every class."""
    objects: list[RawObject] = []
    for item in image.objects:
        if item.name != REGION:
            objects.append(item)
        else:
            objects.extend(RawObject(item.source, one.name, item.box, iscrowd=1) for one in categories)
    return RawImage(image.source, image.file, objects=tuple(objects), issue=image.issue)


def _categories(rooms: Iterable[dict[str, RawImage]]) -> tuple[Category, ...]:
    """KITTI's classes in KITTI's order, as far as they are there; any others by the alphabet."""
    found = class_names(image for images in rooms for image in images.values()) - {REGION}
    return number_categories([name for name in NAMES if name in found] if found <= set(NAMES) else sorted(found))


def _lists(folder: Path, room: PurePosixPath, files: list[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
    homes = {room.parent / "ImageSets", room.parent.parent / "ImageSets"}
    found = [file for file in files if file.parent in homes and file.suffix == ".txt"]
    others = {"test"} if room.parent.name == "training" else set()
    return {file: lines(folder, file) for file in found if file.stem not in others}


def _listed(stems: list[str], annotated: dict[str, RawImage], listing: PurePosixPath) -> Iterable[RawImage]:
    for stem in stems:
        issue = Issue("missing_annotation", "its label file is not there")
        yield annotated.get(stem) or RawImage(f"{listing}: {show_value(stem)}", "", issue=issue)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
