"""Detections as COCO's results format has them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.annotations import AnnotationSet
from pipeline.errors import PipelineError
from pipeline.files import read_json, write_json


@dataclass(frozen=True, slots=True)
class Detection:
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]  # x, y, width, height in pixels
    score: float


def read(path: Path, truth: AnnotationSet) -> tuple[Detection, ...]:
    """Reads a results file; an image or category that `truth` doesn't have raises PipelineError."""
    images = {image.id for image in truth.images}
    categories = {category.id for category in truth.categories}
    found = []
    for number, record in enumerate(read_json(path)):
        if record["image_id"] not in images or record["category_id"] not in categories:
            raise PipelineError(f"{path}: record {number}: its image or category does not exist")
        x, y, w, h = record["bbox"]
        found.append(Detection(record["image_id"], record["category_id"], (x, y, w, h), record["score"]))
    return tuple(found)


def write(detections: Sequence[Detection], path: Path) -> None:
    """Writes a results file, whole or not at all."""
    write_json(path, [asdict(detection) for detection in detections], indent=None)
