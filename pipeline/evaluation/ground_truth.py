"""Any COCO JSON as ground truth: more lenient than the unified format, which `pipeline.data.annotations` reads."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import first_problem, read_bytes
from pipeline.errors import PipelineError

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
_Length = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0)]


@dataclass(frozen=True, slots=True)
class _Image:
    id: int
    file_name: str | None = None
    width: int = 0  # no metric asks for an image's size
    height: int = 0


@dataclass(frozen=True, slots=True)
class _Annotation:
    image_id: int
    category_id: int
    bbox: tuple[_Number, _Number, _Length, _Length]
    area: _Length | None = None
    iscrowd: bool | None = None
    difficult: bool | None = None


@dataclass(frozen=True, slots=True)
class _Truth:
    categories: list[Category]
    images: list[_Image]
    annotations: list[_Annotation]


_ADAPTER = TypeAdapter(_Truth)


def read(path: Path) -> AnnotationSet:
    """Reads ground truth for evaluation alone.

    Keys that boxes don't need (segmentations, licenses) are passed over; a missing `area` is width × height, a
    missing `iscrowd` or `difficult` 0. Boxes may leave their image. Annotations are numbered anew from 1, in
    the file's order: some tools write no ids, or begin at 0, which pycocotools takes for "no match".

    Raises:
        PipelineError: the file and its first record that no evaluation can use.
    """
    content = read_bytes(path)
    try:
        found = _ADAPTER.validate_json(content)
    except ValidationError as error:
        remedy = "ground truth is COCO JSON: {images: […], annotations: […], categories: […]}"
        raise PipelineError(f"{path}: {first_problem(error)}; {remedy}") from None
    for problem in _problems(found):
        raise PipelineError(f"{path}: {problem}; correct the file, or leave that record out")
    return AnnotationSet(
        categories=tuple(found.categories),
        images=tuple(_image(each) for each in found.images),
        annotations=tuple(_annotation(number, each) for number, each in enumerate(found.annotations, start=1)),
    )


def _image(found: _Image) -> Image:
    return Image(found.id, found.file_name or str(found.id), found.width, found.height)


def _annotation(number: int, found: _Annotation) -> Annotation:
    width, height = found.bbox[2:]
    area = width * height if found.area is None else found.area
    crowd, difficult = int(found.iscrowd or False), int(found.difficult or False)
    return Annotation(number, found.image_id, found.category_id, found.bbox, area, crowd, difficult)


def _problems(found: _Truth) -> Iterator[str]:
    kinds: dict[str, list[Any]] = {"category": found.categories, "image": found.images}
    for kind, records in kinds.items():
        if not records:
            yield f"it has no {kind}"
        for repeated, count in Counter(record.id for record in records).items():
            if count > 1:
                yield f"{kind} id {repeated} is used {count} times"
    for name, count in Counter(category.name for category in found.categories).items():
        if count > 1:
            yield f"category name {name!r} is used {count} times"
    images = {image.id for image in found.images}
    categories = {category.id for category in found.categories}
    for number, annotation in enumerate(found.annotations):
        if annotation.image_id not in images:
            yield f"annotations: record {number}: image {annotation.image_id} does not exist"
        if annotation.category_id not in categories:
            yield f"annotations: record {number}: category {annotation.category_id} does not exist"
