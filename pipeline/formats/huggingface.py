"""Reader of Hugging Face's image folders: metadata.jsonl, one line per image, with its objects.

Format: https://huggingface.co/docs/datasets/image_dataset#object-detection. `bbox` is COCO's: left, top, width, height.
Classes are numbers or names; README.md, the data set's card, may name the numbers.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.formats.dataset_files import list_files, read_head
from pipeline.formats.layouts import AnnotationFile, json_image, read_split_files
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, object_record
from pipeline.formats.values import box_from_size, lookup, to_label

_FILE = "metadata.jsonl"
_CLASSES = ("categories", "category", "category_id", "labels", "label", "class", "classes")
_CLASS_NAMES = re.compile(r"class_label:\s*\n\s*names:\s*\n((?:\s+'?\d+'?:[^\n]*\n?)+)")
_CLASS_NAME = re.compile(r"^\s+'?(\d{1,9})'?:\s*([^\n]*?)\s*$", re.MULTILINE)
_LARGEST_CARD = 1 << 20  # bytes of README.md that are searched


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return [file for file in files if file.name.lower() == _FILE and b'"bbox"' in read_head(folder / file, 1 << 16)]


def read(folder: Path) -> RawDataset:
    """Reads all files metadata.jsonl below `folder`, each as a split named after its folder.

    Raises:
        PipelineError: There is no such file.
    """
    names = {file: _read_class_names(folder, file) for file in find_annotations(folder, list_files(folder))}
    expected = "Hugging Face metadata: a metadata.jsonl whose lines have a file_name and objects with bbox"
    return read_split_files(
        folder,
        find_annotations,
        lambda annotations: RawSplit(tuple(_images(annotations, names[annotations.file]))),
        expected,
        class_names=list(dict.fromkeys(name for by_number in names.values() for name in by_number.values())),
    )


def _read_class_names(folder: Path, file: PurePosixPath) -> dict[int, str]:
    """The class names that the data set's card gives, in the file's folder or in one above it; empty without one."""
    return next(filter(None, (_read_card(folder / parent / "README.md") for parent in file.parents)), {})


def _read_card(card: Path) -> dict[int, str]:
    match = _CLASS_NAMES.search(read_head(card, _LARGEST_CARD).decode("utf-8", "replace")) if card.is_file() else None
    lines = _CLASS_NAME.findall(match[1]) if match else []
    return {int(number): name.strip("'\"") for number, name in lines if name.strip("'\"")}


def _images(annotations: AnnotationFile, names: dict[int, str]) -> Iterator[RawImage]:
    def read_object(source: str, item: Any) -> RawObject:
        box, label = item
        label = names.get(label, label) if type(label) is int else label
        values = box if isinstance(box, list) else [box]
        return object_record(source, to_label(label), box_from_size(values))

    for source, content in annotations.read_json_lines():
        objects = content if isinstance(content, Issue) else _objects(lookup(content, "objects"))
        yield json_image(annotations, source, lookup(content, "file_name"), objects, read_object)


def _objects(objects: Any) -> list[tuple[Any, Any]] | Issue:
    """The box and class of each object, given as a list of objects or as parallel lists."""
    if objects is None:
        return []
    if isinstance(objects, list):
        return [(lookup(item, "bbox"), _class(item)) for item in objects]
    boxes, labels = lookup(objects, "bbox"), _class(objects)
    if isinstance(boxes, list) and isinstance(labels, list) and len(boxes) == len(labels):
        return list(zip(boxes, labels, strict=True))
    return Issue("invalid_record", "objects need lists bbox and categories of equal length")


def _class(item: Any) -> Any:
    return next((value for key in _CLASSES if (value := lookup(item, key)) is not None), None)
