"""Reader of BDD100K's and Scalabel's JSON: a list of frames with labels, or the former file for each image.

Format: https://doc.scalabel.ai/format.html. The corners of a `box2d` are pixels inside the box: Scalabel's own
conversion to COCO (scalabel/label/transforms.py) takes x2 − x1 + 1 as the width. Labels without `box2d`, such as lanes
and drivable areas, aren't objects. A label with the attribute `crowd` or `ignored` is a crowd.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.formats.dataset_files import list_files
from pipeline.formats.layouts import AnnotationFile, find_json_files, json_image, read_image_files, read_split_files
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, object_record
from pipeline.formats.values import box_from_corners, lookup, to_label, to_size

_CORNERS = ("x1", "y1", "x2", "y2")
_EXPECTED = "BDD100K labels: a .json with frames whose labels have a category and a box2d"


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_json_files(folder, files, _is_annotation)


def read(folder: Path) -> RawDataset:
    """Reads all label files below `folder`: each is a split, or, if files describe one image each, each folder is.

    Raises:
        PipelineError: There is no such file, or a file of a whole split isn't JSON.
    """

    if _find_single_images(folder, list_files(folder)):
        return read_image_files(folder, _find_single_images, _read_single_image, _EXPECTED)
    return read_split_files(folder, find_annotations, _read_split, _EXPECTED, stem=_stem)


def _find_single_images(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_json_files(folder, files, _is_single_image, whole_folders=True)


def _is_annotation(head: bytes) -> bool:
    return b'"box2d"' in head and b'"category"' in head and b'"name"' in head


def _is_single_image(head: bytes) -> bool:
    return _is_annotation(head) and head.startswith(b"{") and b'"frames"' in head and b'"objects"' in head


def _stem(file: PurePosixPath) -> str:
    """`train` of bdd100k_labels_images_train.json and det_train.json."""
    return re.sub(r"^(bdd100k_labels_images|det)_|_coco$", "", file.stem)


def _read_split(annotations: AnnotationFile) -> RawSplit:
    content = annotations.read_json()
    frames = lookup(content, "frames") if isinstance(content, dict) else content
    if not isinstance(frames, list):
        raise PipelineError(f"{annotations.file}: not a list of frames, as BDD100K has it")
    records = []
    for number, frame in enumerate(frames, 1):
        labels = [] if lookup(frame, "labels") is None else lookup(frame, "labels")
        size = to_size(lookup(frame, "size", "width"), lookup(frame, "size", "height"))
        source = f"{annotations.file}: frame {number}"
        records.append(json_image(annotations, source, lookup(frame, "name"), labels, _object, size))
    return RawSplit(tuple(records))


def _read_single_image(annotations: AnnotationFile) -> RawImage:
    content = annotations.try_read_json()
    frames = lookup(content, "frames")
    objects = lookup(frames[0], "objects") if isinstance(frames, list) and len(frames) == 1 else None
    name = lookup(content, "name") or annotations.file.stem
    return json_image(
        annotations, str(annotations.file), name, content if isinstance(content, Issue) else objects, _object
    )


def _object(source: str, label: Any) -> RawObject | None:
    box = lookup(label, "box2d")
    if box is None and isinstance(label, dict):
        return None
    corners = box_from_corners([lookup(box, name) for name in _CORNERS], _CORNERS, inclusive=True)
    attributes = lookup(label, "attributes")
    is_crowd = any(str(lookup(attributes, name)).lower() in ("true", "1") for name in ("crowd", "ignored"))
    return object_record(source, to_label(lookup(label, "category")), corners, iscrowd=int(is_crowd))
