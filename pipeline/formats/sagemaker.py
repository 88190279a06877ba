"""Reader of Amazon SageMaker Ground Truth's manifests of boxes: one line of JSON per image.

Format: https://docs.aws.amazon.com/rekognition/latest/customlabels-dg/cd-manifest-files-object-detection.html,
Rekognition's Custom Labels, which take the same files. `left` and `top` are the box's upper left corner, in pixels of
the image. The labels are under the name of the labeling job, and `class-map` under the same name with `-metadata`; a
job that adjusts another's labels adds its own after them.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.formats.dataset_files import read_head
from pipeline.formats.layouts import AnnotationFile, json_image, read_split_files
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, object_record
from pipeline.formats.text import show_value
from pipeline.formats.values import box_from_size, lookup, to_label, to_size

_SUFFIXES = {".manifest", ".jsonl"}
_METADATA = "-metadata"
_SIDES = ("left", "top", "width", "height")


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    manifests = [file for file in files if file.suffix.lower() in _SUFFIXES]
    return [file for file in manifests if _is_annotation(read_head(folder / file, 1 << 16))]


def read(folder: Path) -> RawDataset:
    """Reads all manifests below `folder`, each as a split.

    Raises:
        PipelineError: There is no such file.
    """
    expected = "SageMaker manifest: a .manifest or .jsonl whose lines have source-ref, annotations and class-map"
    return read_split_files(folder, find_annotations, _read_split, expected)


def _is_annotation(head: bytes) -> bool:
    return all(key in head for key in (b'"source-ref"', b'"annotations"', b'"image_size"', b'"class-map"'))


def _read_split(annotations: AnnotationFile) -> RawSplit:
    return RawSplit(tuple(_images(annotations)))


def _images(annotations: AnnotationFile) -> Iterator[RawImage]:
    for source, content in annotations.read_json_lines():
        job = _last_job(content)
        class_names = lookup(content, f"{job}{_METADATA}", "class-map")

        def read_object(source: str, item: Any, class_names: Any = class_names) -> RawObject:
            box = box_from_size([lookup(item, side) for side in _SIDES], _SIDES)
            return object_record(source, _class(lookup(item, "class_id"), class_names), box)

        labels = lookup(content, job)
        objects = content if isinstance(content, Issue) else lookup(labels, "annotations")
        yield json_image(
            annotations,
            source,
            lookup(content, "source-ref"),
            objects,
            read_object,
            _size(lookup(labels, "image_size")),
        )


def _last_job(content: Any) -> str:
    """The key of the last labels with boxes; empty if there are none."""
    keys = list(content) if isinstance(content, dict) else []
    return next((key for key in reversed(keys) if lookup(content, key, "annotations") is not None), "")


def _size(sizes: Any) -> tuple[int, int] | None:
    size = sizes[0] if isinstance(sizes, list) and sizes else None
    return to_size(lookup(size, "width"), lookup(size, "height"))


def _class(number: Any, class_names: Any) -> str | Issue:
    name = lookup(class_names, str(number)) if type(number) is int else None
    if name is None:
        return Issue("unknown_class", f"class_id {show_value(number)} is not in the class-map")
    return to_label(name)
