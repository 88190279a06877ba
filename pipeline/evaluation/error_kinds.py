"""Kinds of errors of a detector: one verdict for each detection, and the missed objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.detections import Detection

Kind = Literal["correct", "wrong_class", "poor_box", "duplicate", "background"]
KINDS: tuple[Kind, ...] = ("correct", "wrong_class", "poor_box", "duplicate", "background")

# Lowest IoU at which a detection is related to an object, as in TIDE (arXiv:2008.08115).
MIN_RELATED_IOU = 0.1

Ious = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A detection with its kind, and the object it was compared with: None for background."""

    detection: Detection
    kind: Kind
    annotation: Annotation | None
    iou: float  # with that object; 0 without one


@dataclass(frozen=True, slots=True)
class ImageErrors:
    """The verdicts of one image, highest score first, and its missed objects."""

    verdicts: tuple[Verdict, ...]
    missed: tuple[Annotation, ...]

    def of(self, kind: Kind) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.kind == kind)

    @property
    def count(self) -> int:
        """Number of wrong detections and missed objects together."""
        return len(self.missed) + sum(verdict.kind != "correct" for verdict in self.verdicts)


def analyze(
    truth: AnnotationSet,
    detections: Sequence[Detection],
    *,
    score_threshold: float | Mapping[int, float],
    iou_threshold: float,
) -> dict[int, ImageErrors]:
    """Classifies every detection with a score of at least `score_threshold`, in each image the highest score first.

    The first rule that applies decides:

    correct      IoU ≥ `iou_threshold` with an object of its class that is not matched yet; the best one is matched
    duplicate    IoU ≥ `iou_threshold` with an object of its class that is already matched
    wrong_class  IoU ≥ `iou_threshold` with an object of another class
    poor_box     0.1 ≤ IoU < `iou_threshold` with an object of its class
    background   otherwise

    Difficult objects and crowds are never missed, and any number of detections of them is correct. The IoU with a crowd
    is the share of the detection inside it, as in COCO.

    Args:
        score_threshold: one for all classes, or one for each category id.

    Returns:
        The errors of every image of `truth`, by image id.
    """
    groups: dict[int, list[Detection]] = {image.id: [] for image in truth.images}
    for detection in detections:
        lowest = score_threshold if isinstance(score_threshold, float) else score_threshold[detection.category_id]
        if detection.score >= lowest:
            groups[detection.image_id].append(detection)
    objects = truth.by_image()
    return {image: _classify_image(objects[image], group, iou_threshold) for image, group in groups.items()}


def _classify_image(objects: list[Annotation], detections: list[Detection], threshold: float) -> ImageErrors:
    ranked = sorted(detections, key=lambda detection: -detection.score)
    counted = [item for item in objects if not (item.iscrowd or item.difficult)]
    ignored = [item for item in objects if item.iscrowd or item.difficult]
    counted_ious, ignored_ious = iou_matrix(ranked, counted), iou_matrix(ranked, ignored)
    matched: set[int] = set()
    verdicts = []
    for row, detection in enumerate(ranked):
        verdict = _classify(detection, counted, counted_ious[row], matched, threshold)
        if verdict.kind != "correct":
            verdict = _match_ignored(detection, ignored, ignored_ious[row], threshold) or verdict
        elif verdict.annotation:
            matched.add(verdict.annotation.id)
        verdicts.append(verdict)
    return ImageErrors(tuple(verdicts), tuple(item for item in counted if item.id not in matched))


def _classify(
    detection: Detection, objects: list[Annotation], ious: Ious, matched: set[int], threshold: float
) -> Verdict:
    same_class = np.array([item.category_id == detection.category_id for item in objects], dtype=bool)
    free = np.array([item.id not in matched for item in objects], dtype=bool)
    rules: tuple[tuple[Kind, NDArray[np.bool_]], ...] = (
        ("correct", same_class & free & (ious >= threshold)),
        ("duplicate", same_class & (ious >= threshold)),
        ("wrong_class", ~same_class & (ious >= threshold)),
        ("poor_box", same_class & (ious >= MIN_RELATED_IOU)),
    )
    for kind, eligible in rules:
        if eligible.any():
            best = int(np.argmax(np.where(eligible, ious, -np.inf)))
            return Verdict(detection, kind, objects[best], float(ious[best]))
    return Verdict(detection, "background", None, 0.0)


def _match_ignored(detection: Detection, ignored: list[Annotation], ious: Ious, threshold: float) -> Verdict | None:
    """The verdict `correct` if the detection matches a difficult object or a crowd of its class."""
    for index in np.argsort(-ious, kind="stable"):
        if ious[index] >= threshold and ignored[index].category_id == detection.category_id:
            return Verdict(detection, "correct", ignored[index], float(ious[index]))
    return None


def iou_matrix(detections: Sequence[Detection], objects: Sequence[Annotation]) -> Ious:
    """IoU of N detections and M objects [N, M]; with a crowd, intersection over the area of the detection."""
    detected = np.array([item.bbox for item in detections], dtype=np.float64).reshape(-1, 4).T[:, :, None]
    annotated = np.array([item.bbox for item in objects], dtype=np.float64).reshape(-1, 4).T[:, None, :]
    crowd = np.array([item.iscrowd for item in objects], dtype=bool)
    x1, y1, x2, y2 = xywh_to_xyxy(detected)
    left, top, right, bottom = xywh_to_xyxy(annotated)
    width = (np.minimum(x2, right) - np.maximum(x1, left)).clip(min=0)
    height = (np.minimum(y2, bottom) - np.maximum(y1, top)).clip(min=0)
    intersection = width * height
    detection_area, object_area = detected[2] * detected[3], annotated[2] * annotated[3]
    union = np.where(crowd, detection_area, detection_area + object_area - intersection)
    ious: Ious = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return ious
