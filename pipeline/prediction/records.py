"""Detections in an image as a record of JSON, and as a line of text."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fcos.postprocess import Detections
from pipeline.data.boxes import xyxy_to_xywh
from pipeline.prediction.images import Prediction

Categories = Sequence[tuple[int, str]]  # ids and names, indexed by label


def to_record(prediction: Prediction, categories: Categories) -> dict[str, Any]:
    """The JSON record of an image; boxes are [x, y, width, height] in pixels."""
    return {
        "file": prediction.path.as_posix(),
        "width": prediction.width,
        "height": prediction.height,
        "detections": detection_records(prediction.detections, categories),
    }


def detection_records(detections: Detections, categories: Categories) -> list[dict[str, Any]]:
    """The records of the detections in an image or in a frame."""
    return [
        {
            "category_id": categories[label][0],
            "category": categories[label][1],
            "score": round(score, 4),
            "bbox": [round(value, 2) for value in xyxy_to_xywh(box)],
        }
        for box, score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
    ]


def format_record(record: dict[str, Any]) -> str:
    """A record as one line of text: the file, and the number of detections of each class."""
    counts = Counter(detection["category"] for detection in record["detections"])
    summary = ", ".join(f"{number} × {name}" for name, number in counts.most_common())
    return f"{record['file']}: {summary or 'nothing'}"
