"""Reader of keras-yolo3's text files: one line per image, `path x1,y1,x2,y2,id x1,y1,x2,y2,id …`.

Format: https://github.com/qqwweee/keras-yolo3#training; Roboflow calls it YOLO v4 PyTorch. Corners are pixel edges,
0-based. A list of class names (*classes.txt, *.names) translates the ids. Some tools separate the numbers by spaces.
"""

import re
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.dataset_files import list_files, read_lines
from pipeline.formats.image_index import IMAGE_SUFFIXES
from pipeline.formats.layouts import AnnotationFile, find_text_files, read_split_files
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, image_record, object_record
from pipeline.formats.text import show_value
from pipeline.formats.values import box_from_corners

_VALUES = 5  # of an object
_SUFFIX = "|".join(re.escape(suffix) for suffix in sorted(IMAGE_SUFFIXES))
_LINE = re.compile(rf"(.+?(?:{_SUFFIX}))((?:\s+-?\d[\d.,\s-]*)?)", re.IGNORECASE)
_TESTED_LINES = 20


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_text_files(folder, files, _is_annotation)


def read(folder: Path) -> RawDataset:
    """Reads all such files below `folder`, each as a split. Without class names, classes are called by their ids.

    Raises:
        PipelineError: There is no such file, or lists of class names differ.
    """
    names = _read_class_names(folder)
    expected = "keras-yolo annotation: a .txt with lines path x1,y1,x2,y2,id …"
    dataset = read_split_files(folder, find_annotations, lambda file: _read_split(file, names), expected, stem=_stem)
    if names:
        categories = tuple(Category(id, name) for id, name in enumerate(names))
        return RawDataset(categories, dataset.splits, dataset.num_image_files)
    class_ids = sorted((category.name for category in dataset.categories), key=int)
    remark = "no file names the classes, so they are called by their ids; add a classes.txt with one name on each line"
    categories = tuple(Category(int(name), name) for name in class_ids)
    return RawDataset(categories, dataset.splits, dataset.num_image_files, (remark,))


def _is_annotation(lines: list[str]) -> bool:
    """Whether the first lines name images, some of them with objects. The last line may be cut off."""
    whole = lines[: max(1, min(_TESTED_LINES, len(lines) - 1))]
    matches = [match for line in whole if (match := _LINE.fullmatch(line))]
    objects = [values for match in matches for values in _objects(match[2])]
    is_whole = bool(lines) and len(matches) == len(whole)
    return is_whole and bool(objects) and all(len(values) == _VALUES for values in objects)


def _objects(text: str) -> list[list[str]]:
    """The values of each object of a line."""
    tokens = text.split()
    if any("," in token for token in tokens):
        return [token.split(",") for token in tokens]
    return [tokens[start : start + _VALUES] for start in range(0, len(tokens), _VALUES)]


def _read_class_names(folder: Path) -> list[str]:
    files = list_files(folder)
    lists = [file for file in files if file.suffix == ".names" or file.name.lower().endswith("classes.txt")]
    names = {file: read_lines(folder, file) for file in lists}
    first = next(iter(names), None)
    for file, class_names in names.items():
        if first is not None and class_names != names[first]:
            raise PipelineError(f"{file}: its classes differ from those of {first}; keep one list of classes")
        if len(set(class_names)) < len(class_names):
            raise PipelineError(f"{file}: a class is listed twice; rename one")
    return names[first] if first is not None else []


def _stem(file: PurePosixPath) -> str:
    """`train` of train_annotations.txt; `_annotations` names no split."""
    return re.sub(r"(?<=[^_-])[-_](annotations?|labels?)$", "", file.stem)


def _read_split(annotations: AnnotationFile, names: list[str]) -> RawSplit:
    lines = annotations.read_lines()
    return RawSplit(
        tuple(_image(annotations, f"{annotations.file}: line {number}", line, names) for number, line in lines)
    )


def _image(annotations: AnnotationFile, source: str, line: str, names: list[str]) -> RawImage:
    match = _LINE.fullmatch(line)
    if match is None:
        return image_record(source, Issue("invalid_record", f"{show_value(line)} is not path x1,y1,x2,y2,id …"))
    objects = (_object(f"{source}: object {n}", values, names) for n, values in enumerate(_objects(match[2]), 1))
    return image_record(source, annotations.find_image(match[1]), objects=tuple(objects))


def _object(source: str, values: list[str], names: list[str]) -> RawObject:
    id = values[-1]
    label: str | Issue = Issue("unknown_class", f"class {show_value(id)} is not in the list of classes")
    if len(values) != _VALUES or not (id.isascii() and id.isdecimal()) or len(id) > 9:
        label = Issue("invalid_record", f"{show_value(','.join(values))} is not x1,y1,x2,y2,id")
    elif not names or int(id) < len(names):
        label = names[int(id)] if names else str(int(id))
    return object_record(source, label, box_from_corners(values[:4]))
