"""`fcos predict`: detections for arbitrary image files, as records for JSON and as text."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from fcos.postprocess import Detections, Postprocess
from pipeline.data.boxes import xyxy_to_xywh
from pipeline.data.image_files import DEFAULT_LIMIT, PixelLimit
from pipeline.data.image_suffixes import IMAGE_SUFFIXES
from pipeline.data.images import read_image, to_pil
from pipeline.errors import PipelineError
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views, detect_in_views

_BATCH_SIZE = 8  # tiles of an image at a time


@dataclass(frozen=True)
class Prediction:
    """An image and its detections, boxes in pixels of the stored image."""

    path: Path
    image: PIL.Image.Image
    detections: Detections


def find_images(paths: Sequence[Path], out: Path | None = None) -> list[Path]:
    """Image files: those given, and those in the given folders and their subfolders, sorted.

    Args:
        out: a folder to leave out, because an earlier run wrote its pictures there.

    Raises:
        PipelineError: no path exists, or a folder contains no image. A path that does not exist beside one that does
            is returned, since only it can't be read.
    """
    if not any(path.exists() for path in paths):
        raise PipelineError(f"{paths[0]}: no such file or folder")
    images: list[Path] = []
    for path in paths:
        images += _images_in(path, out) if path.is_dir() else [path]
    return images


def _images_in(folder: Path, out: Path | None) -> list[Path]:
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    images = sorted(file for file in files if out is None or out.resolve() not in file.resolve().parents)
    if not images:
        raise PipelineError(f"{folder}: no image in this folder (recognized: {', '.join(sorted(IMAGE_SUFFIXES))})")
    return images


def predict(
    model: SavedDetector,
    path: Path,
    thresholds: Sequence[float],
    postprocess: Postprocess,
    views: Views,
    limit: PixelLimit = DEFAULT_LIMIT,
) -> Prediction:
    """Reads an image and detects objects in it.

    Args:
        thresholds: [K], lowest final score, after post-processing, of a detection of each class.

    Raises:
        PipelineError: the image can't be decoded, or is larger than the limit.
    """
    pixels = read_image(path, limit=limit)
    (detections,) = detect_in_views(
        model.detector, [pixels], model.description.input_size, postprocess, views, _BATCH_SIZE
    )
    return Prediction(path, to_pil(pixels), above_thresholds(detections, thresholds))


def above_thresholds(detections: Detections, thresholds: Sequence[float]) -> Detections:
    """The detections with at least the score that is required of their class; `thresholds` is indexed by label."""
    # In double precision: a threshold rounded to float32 could exclude the score that it was chosen for.
    lowest = torch.tensor(thresholds, dtype=torch.float64, device=detections.scores.device)
    return detections[detections.scores >= lowest[detections.labels]]


def to_record(prediction: Prediction, model: SavedDetector) -> dict[str, Any]:
    """The JSON record of an image; boxes are [x, y, width, height] in pixels."""
    detections = prediction.detections
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
                detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
            )
        ],
    }


def format_record(record: dict[str, Any]) -> str:
    """A record as one line of text: the file, and the number of detections of each class."""
    counts = Counter(detection["category"] for detection in record["detections"])
    summary = ", ".join(f"{number} × {name}" for name, number in counts.most_common())
    return f"{record['file']}: {summary or 'nothing'}"
