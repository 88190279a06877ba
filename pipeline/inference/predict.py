"""`fcos predict`: pictures with boxes, and detections as JSON, for images of any origin."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image

from fcos.postprocess import Detections, Postprocess
from pipeline.data.boxes import xyxy_to_xywh
from pipeline.data.images import read_image, to_pil
from pipeline.errors import PipelineError
from pipeline.inference.detect import detect
from pipeline.inference.model import Model

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})


@dataclass(frozen=True)
class Prediction:
    """One image's detections."""

    path: Path
    image: PIL.Image.Image
    detections: Detections


def images_of(paths: Sequence[Path], out: Path | None = None) -> list[Path]:
    """The image files that are named, or lie anywhere in a folder that is, in order; none from the folder `out`,
    where an earlier run left its pictures.

    Raises:
        PipelineError: a path that doesn't exist, or a folder without an image.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            files = (file for file in path.rglob("*") if file.suffix.lower() in IMAGES and file.is_file())
            inside = sorted(file for file in files if out is None or out.resolve() not in file.resolve().parents)
            if not inside:
                raise PipelineError(f"{path}: no image in this folder; looked for {', '.join(sorted(IMAGES))}")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise PipelineError(f"{path}: no such file or folder")
    return found


def predict(model: Model, paths: Sequence[Path], score_threshold: float) -> Iterator[Prediction]:
    """Detections in each image, above a final score, as the images are read."""
    for path in paths:
        pixels = read_image(path)
        (found,) = detect(model.detector, [pixels], model.description.input_size, Postprocess())
        sure = found.scores >= score_threshold
        kept = Detections(found.boxes[sure], found.scores[sure], found.labels[sure])
        yield Prediction(path, to_pil(pixels), kept)


def record(prediction: Prediction, model: Model) -> dict[str, Any]:
    """An image's detections for JSON: boxes as [x, y, width, height] in its pixels."""
    found = prediction.detections
    return {
        "file": prediction.path.as_posix(),
        "width": prediction.image.width,
        "height": prediction.image.height,
        "detections": [
            {
                "category_id": model.description.categories[label][0],
                "category": model.class_names[label],
                "score": round(score, 4),
                "bbox": [round(value, 2) for value in xyxy_to_xywh(box)],
            }
            for box, score, label in zip(
                found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
            )
        ],
    }


def line(record: dict[str, Any]) -> str:
    """A record as a person reads it: the file and how many of what were found in it."""
    counts = Counter(found["category"] for found in record["detections"])
    found = ", ".join(f"{number} × {name}" for name, number in counts.most_common())
    return f"{record['file']}: {found or 'nothing'}"
