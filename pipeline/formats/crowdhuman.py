"""Reader of CrowdHuman's .odgt files: one line of JSON per image.

Format: https://www.crowdhuman.org/download.html. The full box (`fbox`: left, top, width, height) is read, which may
extend beyond the image where a person is cut off or hidden. A `mask` and a box with `ignore` are crowds of persons.
"""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.formats.dataset_files import read_head
from pipeline.formats.layouts import AnnotationFile, json_image, read_split_files
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, object_record
from pipeline.formats.values import box_from_size, lookup, to_label

_IGNORED = "mask"  # the tag of regions and figures that aren't persons
_PERSON = "person"


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    odgt = [file for file in files if file.suffix.lower() == ".odgt"]
    return [file for file in odgt if b'"gtboxes"' in read_head(folder / file, 1 << 16)]


def read(folder: Path) -> RawDataset:
    """Reads all .odgt files below `folder`, each as a split.

    Raises:
        PipelineError: There is no such file.
    """
    expected = "CrowdHuman annotation: an .odgt file whose lines have gtboxes"
    return read_split_files(
        folder, find_annotations, _read_split, expected, stem=lambda file: file.stem.removeprefix("annotation_")
    )


def _read_split(annotations: AnnotationFile) -> RawSplit:
    return RawSplit(tuple(_images(annotations)))


def _images(annotations: AnnotationFile) -> Iterator[RawImage]:
    for source, content in annotations.read_json_lines():
        name = lookup(content, "ID") or lookup(content, "fpath")
        boxes = content if isinstance(content, Issue) else lookup(content, "gtboxes")
        yield json_image(annotations, source, name, boxes, _object)


def _object(source: str, item: Any) -> RawObject:
    values = lookup(item, "fbox")
    label = to_label(lookup(item, "tag"))
    is_ignored = label == _IGNORED or lookup(item, "extra", "ignore") == 1
    box = box_from_size(values if isinstance(values, list) else [values])
    return object_record(source, _PERSON if label == _IGNORED else label, box, iscrowd=int(is_ignored))
