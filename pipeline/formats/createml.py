"""Reader of Create ML's JSON: a list of images, each with its annotations.

Format: https://developer.apple.com/documentation/createml/building-an-object-detector-data-source. `x` and `y` are the
box's center, in pixels from the image's top left corner.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.formats.layouts import AnnotationFile, find_json_files, json_image, read_split_files
from pipeline.formats.records import Issue, RawDataset, RawObject, RawSplit, object_record
from pipeline.formats.values import box_from_size, lookup, to_label


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_json_files(folder, files, _is_annotation)


def read(folder: Path) -> RawDataset:
    """Reads all Create ML files below `folder`, each as a split.

    Raises:
        PipelineError: There is no such file, or a file isn't JSON.
    """
    return read_split_files(
        folder, find_annotations, _read_split, "Create ML annotation: a .json list with image and annotations"
    )


def _is_annotation(head: bytes) -> bool:
    has_image = b'"image"' in head or b'"imagefilename"' in head
    return head.startswith(b"[") and has_image and b'"coordinates"' in head


def _read_split(annotations: AnnotationFile) -> RawSplit:
    content = annotations.read_json()
    if not isinstance(content, list):
        raise PipelineError(f"{annotations.file}: not a list of images, as Create ML has it")
    records = (
        json_image(annotations, f"{annotations.file}: image {number}", _first(entry, "image", "imagefilename"),
                   _first(entry, "annotations", "annotation"), _object)
        for number, entry in enumerate(content, 1)
    )  # fmt: skip
    return RawSplit(tuple(records))


def _first(entry: Any, *keys: str) -> Any:
    return next((value for key in keys if (value := lookup(entry, key)) is not None), None)


def _object(source: str, item: Any) -> RawObject:
    names = ("x", "y", "width", "height")
    box = box_from_size([lookup(item, "coordinates", name) for name in names], names)
    if not isinstance(box, Issue):
        x, y, width, height = box
        box = (x - width / 2, y - height / 2, width, height)
    return object_record(source, to_label(lookup(item, "label")), box)
