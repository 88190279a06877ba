"""Reader of KITTI's object labels: one text file per image, one line of 15 columns per object.

Format: readme.txt of the development kit, https://www.cvlibs.net/datasets/kitti/eval_object.php. The columns are type,
truncated, occluded, alpha, left, top, right, bottom, and seven 3D values. Coordinates are 0-based. The width is
right − left, as in the development kit's overlap.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.files import to_utf8
from pipeline.formats.classes import collect_class_names, number_categories
from pipeline.formats.dataset_files import Spellings, list_files, read_head, read_lines
from pipeline.formats.image_index import ImageIndex
from pipeline.formats.layouts import find_annotation, find_annotation_folders
from pipeline.formats.records import (
    Box,
    Issue,
    RawDataset,
    RawImage,
    RawObject,
    RawSplit,
    ignored_region,
    image_record,
    invalid_image,
    object_record,
)
from pipeline.formats.split_names import name_splits_by_folder
from pipeline.formats.text import show_value

CLASS_NAMES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
DONT_CARE = "DontCare"  # a region with objects that aren't annotated
_COLUMNS = 15


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return find_annotation(files, ".txt", lambda file: _is_label(folder / file))


def read(folder: Path) -> RawDataset:
    """Reads all folders of labels below `folder`.

    The splits of a folder are the lists in `ImageSets/*.txt` beside it or one level above. The list `test` is ignored
    for KITTI's `training` folder, because it lists other images. A folder without lists is one split, named after it.
    A `DontCare` region becomes a crowd of every class: KITTI's evaluation doesn't count detections there as false
    positives either.

    Raises:
        PipelineError: There is no folder of labels, or a list isn't text.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    label_folders = find_annotation_folders(files, ".txt", lambda file: _is_label(folder / file))
    if not label_folders:
        raise PipelineError(f"{folder}: no KITTI labels found: .txt files with {_COLUMNS} columns")
    by_folder = {
        labels: {file.stem: _image(folder, file, images) for file in label_files}
        for labels, label_files in label_folders.items()
    }
    categories = _categories(by_folder.values())
    splits: dict[str, list[RawImage]] = defaultdict(list)
    for labels, name in name_splits_by_folder(label_folders).items():
        by_stem = by_folder[labels]
        prefix = f"{name}/" if len(label_folders) > 1 else ""
        lists = _read_lists(folder, labels, files)
        for list_file, stems in lists.items():
            splits[prefix + list_file.stem] += _listed_images(stems, by_stem, list_file)
        if not lists:
            splits[name] += by_stem.values()
    return RawDataset(categories, {name: RawSplit(tuple(split)) for name, split in splits.items()}, images.count)


def _is_label(path: Path) -> bool:
    """Whether the first line has KITTI's columns, with values in their ranges."""
    first_line = to_utf8(read_head(path)).split(b"\n")[0].decode(errors="replace").split()
    if len(first_line) != _COLUMNS or _number(first_line[0]) is not None:
        return False
    numbers = [_number(column) for column in first_line[1:]]
    return None not in numbers and numbers[1] in (-1.0, 0.0, 1.0, 2.0, 3.0)


def _image(folder: Path, label: PurePosixPath, images: ImageIndex) -> RawImage:
    path = images.find_stem(label.stem, _image_folder(label.parent))
    if isinstance(path, Issue):
        return image_record(str(label), path)
    try:
        lines = read_lines(folder, label)
    except PipelineError:
        return invalid_image(str(label), "not UTF-8 text")
    objects = tuple(_object(f"{label}: object {number}", line) for number, line in enumerate(lines, 1))
    return image_record(str(label), path, objects=objects)


def _image_folder(labels: PurePosixPath) -> PurePosixPath:
    """label_2 annotates image_2, the left color camera; image_3 has images of the same names."""
    return labels.parent / labels.name.replace("label", "image")


def _object(source: str, line: str) -> RawObject:
    name, *columns = line.split()
    box = _box(columns)
    return ignored_region(source, box) if name == DONT_CARE else object_record(source, name, box)


def _box(columns: Sequence[str]) -> Box | Issue:
    if len(columns) != _COLUMNS - 1:
        return Issue("invalid_record", f"has {len(columns) + 1} columns, not {_COLUMNS}")
    numbers = [number for column in columns[3:7] if (number := _number(column)) is not None]
    if len(numbers) < 4:
        values = show_value(" ".join(columns[3:7]))
        return Issue("invalid_record", f"left, top, right, bottom are {values}, not four numbers")
    left, top, right, bottom = numbers
    return (left, top, right - left, bottom - top)


def _categories(folders: Iterable[dict[str, RawImage]]) -> tuple[Category, ...]:
    """The KITTI classes that occur, in KITTI's order; all classes sorted by name if any other one occurs."""
    names = collect_class_names(image for images in folders for image in images.values())
    if names <= set(CLASS_NAMES):
        return number_categories(name for name in CLASS_NAMES if name in names)
    return number_categories(sorted(names))


def _read_lists(folder: Path, labels: PurePosixPath, files: list[PurePosixPath]) -> dict[PurePosixPath, list[str]]:
    list_folders = {labels.parent / "ImageSets", labels.parent.parent / "ImageSets"}
    lists = [file for file in files if file.parent in list_folders and file.suffix == ".txt"]
    ignored = {"test"} if labels.parent.name == "training" else set()
    return {file: read_lines(folder, file) for file in lists if file.stem not in ignored}


def _listed_images(stems: list[str], by_stem: dict[str, RawImage], list_file: PurePosixPath) -> Iterable[RawImage]:
    spellings = Spellings(by_stem)
    for stem in stems:
        issue = Issue("missing_annotation", "label file not found")
        known = spellings.find(stem)
        yield by_stem[known] if known is not None else image_record(f"{list_file}: {show_value(stem)}", issue)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
