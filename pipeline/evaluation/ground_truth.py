"""Reads any COCO JSON as ground truth, more leniently than `pipeline.data.annotations` reads the unified format."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image, repeated_values
from pipeline.data.detections import Id, Length, Number, read_bytes
from pipeline.errors import PipelineError, describe_record_error

_Area = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1e18)]
_Side = Annotated[int, Field(ge=0, lt=2**31)]


@dataclass(frozen=True, slots=True)
class _Category:
    id: Id
    name: str


@dataclass(frozen=True, slots=True)
class _Image:
    id: Id
    file_name: str | None = None
    width: _Side = 0  # not used by any metric
    height: _Side = 0


@dataclass(frozen=True, slots=True)
class _Annotation:
    image_id: Id
    category_id: Id
    bbox: tuple[Number, Number, Length, Length]
    area: _Area | None = None
    iscrowd: bool | None = None
    difficult: bool | None = None


@dataclass(frozen=True, slots=True)
class _Truth:
    categories: list[_Category]
    images: list[_Image]
    annotations: list[_Annotation]


_ADAPTER = TypeAdapter(_Truth)


def read(path: Path) -> AnnotationSet:
    """Reads ground truth for evaluation.

    Other keys, such as segmentations and licenses, are ignored. A missing `area` is width × height, a missing `iscrowd`
    or `difficult` is 0. Boxes may reach out of their image. Annotations get new ids from 1 in the order of the file:
    some tools write no ids, or start at 0, which pycocotools takes for "no match".

    Raises:
        PipelineError: the file or a record is invalid; the message names the first such record.
    """
    return parse(read_bytes(path), path)


def parse(content: bytes | str, path: Path) -> AnnotationSet:
    """Like `read`, for the content of a file; `path` names it in messages.

    Raises:
        PipelineError: as for `read`.
    """
    try:
        parsed = _ADAPTER.validate_json(content)
    except ValidationError as error:
        remedy = "ground truth must be COCO JSON: {images: […], annotations: […], categories: […]}"
        raise PipelineError(f"{path}: {describe_record_error(error)}; {remedy}") from None
    for problem in _problems(parsed):
        raise PipelineError(f"{path}: {problem}; correct the record or remove it")
    return AnnotationSet(
        categories=tuple(Category(record.id, record.name) for record in parsed.categories),
        images=tuple(_to_image(record) for record in parsed.images),
        annotations=tuple(_to_annotation(number, record) for number, record in enumerate(parsed.annotations, start=1)),
    )


def difference(a: AnnotationSet, b: AnnotationSet) -> str | None:
    """Describes the first difference of two ground truths; None if metrics can't differ because of them.

    The order of the records and the ids of annotations don't matter.
    """
    if a == b:
        return None
    if (names := _classes(a)) != (others := _classes(b)):
        changed = sorted(names ^ others)
        return f"{len(names):,} and {len(others):,} classes; {changed[0][1]!r} (id {changed[0][0]}) is not in both"
    images, other_images = ({image.id: image for image in side.images} for side in (a, b))
    if len(images) != len(other_images):
        return f"{len(images):,} and {len(other_images):,} images"
    for number, image in images.items():
        if image != other_images.get(number):
            return f"image {number} ({image.file_name}) is not the same in both"
    objects, other_objects = _objects(a), _objects(b)
    for number in images:
        if objects[number] != other_objects[number]:
            return f"image {number} ({images[number].file_name}) has other annotations"
    return None


def _classes(truth: AnnotationSet) -> set[tuple[int, str]]:
    return {(category.id, category.name) for category in truth.categories}


def _objects(truth: AnnotationSet) -> dict[int, list[Annotation]]:
    """The annotations of each image in a defined order, without their ids."""
    return {
        image: sorted((replace(item, id=0) for item in group), key=repr) for image, group in truth.by_image().items()
    }


def _to_image(record: _Image) -> Image:
    return Image(record.id, record.file_name or str(record.id), record.width, record.height)


def _to_annotation(number: int, record: _Annotation) -> Annotation:
    width, height = record.bbox[2:]
    area = width * height if record.area is None else record.area
    crowd, difficult = int(record.iscrowd or False), int(record.difficult or False)
    return Annotation(number, record.image_id, record.category_id, record.bbox, area, crowd, difficult)


def _problems(truth: _Truth) -> Iterator[str]:
    kinds: dict[str, list[Any]] = {"category": truth.categories, "image": truth.images}
    for kind, records in kinds.items():
        if not records:
            yield f"there is no {kind}"
        yield from repeated_values(f"{kind} id", (record.id for record in records))
    yield from repeated_values("category name", (category.name for category in truth.categories))
    images = {image.id for image in truth.images}
    categories = {category.id for category in truth.categories}
    for number, annotation in enumerate(truth.annotations):
        if annotation.image_id not in images:
            yield f"annotations: record {number}: image {annotation.image_id} does not exist"
        if annotation.category_id not in categories:
            yield f"annotations: record {number}: category {annotation.category_id} does not exist"
