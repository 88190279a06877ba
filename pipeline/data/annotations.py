"""The unified format, strict COCO JSON with one file per split: data classes, reading, writing and checks.

Boxes are (x, y, width, height) in pixel-edge coordinates: 0-based floats inside the image, with positive width and
height. `difficult` is VOC's flag; metrics ignore such objects.
"""

import json
import math
import reprlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import PipelineError, describe_record_error
from pipeline.files import read_json, to_utf8, write_text

_MIN_ID, _MAX_ID = -(2**63), 2**63 - 1
_MAX_SIDE = 2**31 - 1  # pixels
_MAX_NAME = 4096  # characters of a path; no file system has longer ones


@dataclass(frozen=True, slots=True)
class Category:
    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Image:
    id: int
    file_name: str  # POSIX path relative to data/raw/<dataset>/
    width: int  # pixels of the decoded image
    height: int


@dataclass(frozen=True, slots=True)
class Annotation:
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # x, y, width, height
    area: float
    iscrowd: int = 0
    difficult: int = 0


@dataclass(frozen=True, slots=True)
class AnnotationSet:
    """One split. Categories keep the ids and order of the data set; the index in that order is the training label."""

    categories: tuple[Category, ...]
    images: tuple[Image, ...]
    annotations: tuple[Annotation, ...]

    @property
    def objects(self) -> tuple[Annotation, ...]:
        """The annotations of single objects, without crowds: regions in which objects aren't annotated singly."""
        return tuple(annotation for annotation in self.annotations if not annotation.iscrowd)

    @property
    def num_crowds(self) -> int:
        """The number of crowds. One of several classes, such as a region to ignore, counts once."""
        return len({(annotation.image_id, annotation.bbox) for annotation in self.annotations if annotation.iscrowd})

    def by_image(self) -> dict[int, list[Annotation]]:
        """The annotations of each image by image id; an empty list for an image without objects."""
        groups: dict[int, list[Annotation]] = {image.id: [] for image in self.images}
        for annotation in self.annotations:
            groups[annotation.image_id].append(annotation)
        return groups

    def subset(self, images: Iterable[Image]) -> "AnnotationSet":
        """An annotation set with some of its images, in the order given, and their annotations."""
        images, groups = tuple(images), self.by_image()
        annotations = tuple(annotation for image in images for annotation in groups[image.id])
        return replace(self, images=images, annotations=annotations)

    def label_of(self) -> dict[int, int]:
        """The training label, 0…K−1, of each category id."""
        return {category.id: label for label, category in enumerate(self.categories)}


_ADAPTER = TypeAdapter(AnnotationSet)


def write(annotations: AnnotationSet, path: Path) -> None:
    """Writes one split, whole or not at all, with one record per line. The same content always gives the same bytes.

    Raises:
        PipelineError: a record breaks the format; nothing is written.
    """
    for problem in problems(annotations):
        raise PipelineError(f"{path}: {problem}")
    lists = {
        "categories": map(_category_line, annotations.categories),
        "images": map(_image_line, annotations.images),
        "annotations": map(_annotation_line, annotations.annotations),
    }
    blocks = (
        f' "{name}": [\n{text}\n ]' if (text := ",\n".join(lines)) else f' "{name}": []'
        for name, lines in lists.items()
    )
    write_text(path, "{\n" + ",\n".join(blocks) + "\n}\n")


# Formatting by hand takes a tenth of the time of a JSON writer for a million records. The bytes are those of json,
# which writes finite numbers as Python does.


def _category_line(category: Category) -> str:
    return f'  {{"id": {category.id}, "name": {json.dumps(category.name, ensure_ascii=False)}}}'


def _image_line(image: Image) -> str:
    name = json.dumps(image.file_name, ensure_ascii=False)
    return f'  {{"id": {image.id}, "file_name": {name}, "width": {image.width}, "height": {image.height}}}'


def _annotation_line(item: Annotation) -> str:
    x, y, w, h = item.bbox
    return (
        f'  {{"id": {item.id}, "image_id": {item.image_id}, "category_id": {item.category_id}, '
        f'"bbox": [{float(x)!r}, {float(y)!r}, {float(w)!r}, {float(h)!r}], "area": {float(item.area)!r}, '
        f'"iscrowd": {item.iscrowd}, "difficult": {item.difficult}}}'
    )


def read(path: Path) -> AnnotationSet:
    """Reads one split and checks it.

    Raises:
        PipelineError: the file can't be read, or a record breaks the format; the message names the first one.
    """
    try:
        annotations = _ADAPTER.validate_json(to_utf8(path.read_bytes()), strict=True)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "json_invalid":
            read_json(path)  # raises an error with the position
        raise PipelineError(f"{path}: {describe_record_error(error)}; run `dvc repro -f convert`") from None
    for broken in problems(annotations):
        raise PipelineError(f"{path}: {broken}; run `dvc repro -f convert`")
    return annotations


def problems(annotations: AnnotationSet) -> Iterator[str]:
    """Yields one line for each record that breaks the format."""
    if not annotations.categories:
        yield "there are no categories"
    for kind, records in (
        ("category", annotations.categories), ("image", annotations.images), ("annotation", annotations.annotations)
    ):  # fmt: skip
        yield from repeated_values(f"{kind} id", (record.id for record in records))
        yield from (
            f"{kind} id {item.id} does not fit into 64 bits" for item in records if not _MIN_ID <= item.id <= _MAX_ID
        )
    yield from repeated_values("category name", (category.name for category in annotations.categories))
    for image in annotations.images:
        yield from _image_problems(image)
    yield from _annotation_problems(annotations)


def repeated_values(kind: str, values: Iterable[int | str]) -> Iterator[str]:
    """Yields one line for each value that occurs more than once, such as `image id 7 is used 2 times`."""
    return (f"{kind} {value!r} is used {count} times" for value, count in Counter(values).items() if count > 1)


def _image_problems(image: Image) -> Iterator[str]:
    name, parts = image.file_name, image.file_name.split("/")
    no_path = {"", "."}.issuperset(parts) or "\0" in name or len(name) > _MAX_NAME
    if no_path or name[0] == "/" or "\\" in name or ".." in parts:
        yield f"image {image.id}: file_name {reprlib.repr(name)} is not a relative POSIX path inside the data set"
    if image.width < 1 or image.height < 1:
        yield f"image {image.id}: size {image.width}×{image.height} is not positive"
    if max(image.width, image.height) > _MAX_SIDE:
        yield f"image {image.id}: size {image.width}×{image.height} is more than {_MAX_SIDE} pixels on a side"


def _annotation_problems(annotations: AnnotationSet) -> Iterator[str]:
    images = {image.id: image for image in annotations.images}
    categories = {category.id for category in annotations.categories}
    for annotation in annotations.annotations:
        image = images.get(annotation.image_id)
        if image is None:
            yield f"annotation {annotation.id}: image {annotation.image_id} does not exist"
        elif problem := box_problem(annotation.bbox, image.width, image.height):
            yield f"annotation {annotation.id} of {image.file_name}: {problem}"
        if not 0 <= annotation.area < math.inf:
            yield f"annotation {annotation.id}: area {annotation.area:g} is not a finite number of at least 0"
        for flag, value in (("iscrowd", annotation.iscrowd), ("difficult", annotation.difficult)):
            if value not in (0, 1):
                yield f"annotation {annotation.id}: {flag} is {reprlib.repr(value)}, but should be 0 or 1"
        if annotation.category_id not in categories:
            yield f"annotation {annotation.id}: category {annotation.category_id} does not exist"


def box_problem(bbox: tuple[float, float, float, float], width: int, height: int) -> str | None:
    """The problem of a box in an image of this size; None for a valid box.

    Boxes may reach out of the image by a thousandth of a pixel, because of rounding.
    """
    x, y, w, h = bbox
    inside = x >= -1e-3 and y >= -1e-3 and x + w <= width + 1e-3 and y + h <= height + 1e-3
    if inside and w > 0 and h > 0:
        return None
    shown = f"box [x {x:g}, y {y:g}, width {w:g}, height {h:g}]"
    if not (w > 0 and h > 0):  # true for NaN, too
        return f"{shown} has no positive width and height"
    return f"{shown} is outside its image of {width}×{height}"
