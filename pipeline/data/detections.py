"""The COCO results format: a JSON list of detections {image_id, category_id, bbox, score}."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError, describe_record_error
from pipeline.files import to_utf8, write_text


def _refuse_boolean(value: object) -> object:
    if isinstance(value, bool):  # otherwise, true is 1
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


# Numbers are strict, so that "0.9" is no score. Ids are not: tools that keep them in float arrays write 42.0.
# Ids fit into 64 bits, and squares of numbers are finite: the metrics compute with both.
Id = Annotated[int, Field(ge=-(2**63), lt=2**63), BeforeValidator(_refuse_boolean)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e9, le=1e9)]
Length = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1e9)]


@dataclass(frozen=True, slots=True)
class Detection:
    image_id: Id
    category_id: Id  # of the data set, not the training label
    bbox: tuple[Number, Number, Length, Length]  # x, y, width, height in pixel-edge coordinates
    score: Number


_ADAPTER = TypeAdapter(list[Detection])


def read(path: Path, truth: AnnotationSet) -> tuple[Detection, ...]:
    """Reads detections in the images of `truth`. Other keys of a record are ignored.

    Raises:
        PipelineError: the file can't be read, or a record is invalid; the message names the first one, counted from 0.
    """
    return parse(read_bytes(path), path, truth)


def parse(content: bytes | str, path: Path, truth: AnnotationSet) -> tuple[Detection, ...]:
    """Like `read`, for the content of a file; `path` names it in messages.

    Raises:
        PipelineError: as for `read`.
    """
    try:
        detections = tuple(_ADAPTER.validate_json(content))
    except ValidationError as error:
        problem = describe_record_error(error)
        remedy = "it must be a list of {image_id, category_id, bbox: [x, y, width, height], score}"
        raise PipelineError(f"{path}: {problem}; {remedy}") from None
    for problem in _unknown_ids(detections, truth):
        raise PipelineError(f"{path}: {problem}; give the ground truth of the images that these detections are for")
    return detections


def write(detections: Iterable[Detection], path: Path) -> None:
    """Writes detections, whole or not at all, with one per line. The same detections always give the same bytes.

    Numbers are written as the shortest decimals that read back equal. They are not rounded: with nine digits, an IoU
    that equals a threshold fell below it, which changed AP.
    """
    detections = list(detections)
    content = _ADAPTER.dump_json(detections)
    if b"null" in content:  # NaN and infinity
        wrong = next(item for item in detections if not math.isfinite(sum(item.bbox) + item.score))
        raise ValueError(f"{wrong}: a number is not finite")
    write_text(path, content.decode().replace("},{", "},\n{") + "\n")


def read_bytes(path: Path) -> bytes:
    """Reads the bytes of a text file, without a byte order mark.

    Raises:
        PipelineError: the file is missing or can't be read.
    """
    try:
        return to_utf8(path.read_bytes())
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read: {(error.strerror or 'unknown reason').lower()}") from None


def _unknown_ids(detections: tuple[Detection, ...], truth: AnnotationSet) -> Iterator[str]:
    images = {image.id for image in truth.images}
    categories = {category.id for category in truth.categories}
    for number, detection in enumerate(detections):
        if detection.image_id not in images:
            yield f"record {number}: image {detection.image_id} is not in the ground truth"
        if detection.category_id not in categories:
            yield f"record {number}: category {detection.category_id} is not in the ground truth"
