"""What a detector gets wrong, object by object: each detection gets one verdict, each object not found is missed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.detections import Detection

Kind = Literal["correct", "wrong_class", "poor_box", "duplicate", "background"]
KINDS: tuple[Kind, ...] = ("correct", "wrong_class", "poor_box", "duplicate", "background")

# Below this overlap a box says nothing about an object (TIDE, arXiv:2008.08115, has the same border).
NEAR = 0.1

Ious = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One detection, what it is, and the object that decided so: none for background."""

    detection: Detection
    kind: Kind
    annotation: Annotation | None
    iou: float  # with that object; 0 without one


@dataclass(frozen=True, slots=True)
class ImageErrors:
    """All verdicts on one image, by falling score, and the objects that no detection found."""

    verdicts: tuple[Verdict, ...]
    missed: tuple[Annotation, ...]

    def of(self, kind: Kind) -> tuple[Verdict, ...]:
        return tuple(verdict for verdict in self.verdicts if verdict.kind == kind)

    @property
    def count(self) -> int:
        """Wrong detections and missed objects together."""
        return len(self.missed) + sum(verdict.kind != "correct" for verdict in self.verdicts)


def analyze(
    truth: AnnotationSet, detections: Sequence[Detection], *, score_threshold: float, iou_threshold: float
) -> dict[int, ImageErrors]:
    """Judges every detection of at least `score_threshold`, image by image, the highest score first.

    correct      overlaps a free object of its class by `iou_threshold` or more, and takes the best such object
    duplicate    only objects of its class that are taken overlap it so much
    wrong_class  an object of another class overlaps it so much
    poor_box     the best overlap with an object of its class lies between 0.1 and `iou_threshold`
    background   none of these

    The first that holds decides. Difficult and crowd objects are neither missed nor wrong: they are correct to
    detect, any number of times, and right to leave out. Overlap with a crowd is the share of the detection
    inside it, as in COCO.

    Returns: by image id, for every image of `truth`.
    """
    groups: dict[int, list[Detection]] = {image.id: [] for image in truth.images}
    for detection in detections:
        if detection.score >= score_threshold:
            groups[detection.image_id].append(detection)
    objects = truth.by_image()
    return {image: _judge_image(objects[image], found, iou_threshold) for image, found in groups.items()}


def _judge_image(objects: list[Annotation], detections: list[Detection], threshold: float) -> ImageErrors:
    ranked = sorted(detections, key=lambda detection: -detection.score)
    counted = [item for item in objects if not (item.iscrowd or item.difficult)]
    ignored = [item for item in objects if item.iscrowd or item.difficult]
    to_counted, to_ignored = overlaps(ranked, counted), overlaps(ranked, ignored)
    taken: set[int] = set()
    verdicts = []
    for row, detection in enumerate(ranked):
        verdict = _judge(detection, counted, to_counted[row], taken, threshold)
        if verdict.kind != "correct":
            verdict = _excuse(detection, ignored, to_ignored[row], threshold) or verdict
        elif verdict.annotation:
            taken.add(verdict.annotation.id)
        verdicts.append(verdict)
    return ImageErrors(tuple(verdicts), tuple(item for item in counted if item.id not in taken))


def _judge(detection: Detection, objects: list[Annotation], ious: Ious, taken: set[int], threshold: float) -> Verdict:
    own = np.array([item.category_id == detection.category_id for item in objects], dtype=bool)
    free = np.array([item.id not in taken for item in objects], dtype=bool)
    rules: tuple[tuple[Kind, NDArray[np.bool_]], ...] = (
        ("correct", own & free & (ious >= threshold)),
        ("duplicate", own & (ious >= threshold)),
        ("wrong_class", ~own & (ious >= threshold)),
        ("poor_box", own & (ious >= NEAR)),
    )
    for kind, eligible in rules:
        if eligible.any():
            best = int(np.argmax(np.where(eligible, ious, -np.inf)))
            return Verdict(detection, kind, objects[best], float(ious[best]))
    return Verdict(detection, "background", None, 0.0)


def _excuse(detection: Detection, ignored: list[Annotation], ious: Ious, threshold: float) -> Verdict | None:
    """A detection of a difficult or crowd object of its class is no error."""
    for index in np.argsort(-ious, kind="stable"):
        if ious[index] >= threshold and ignored[index].category_id == detection.category_id:
            return Verdict(detection, "correct", ignored[index], float(ious[index]))
    return None


def overlaps(detections: Sequence[Detection], objects: Sequence[Annotation]) -> Ious:
    """IoU of each detection with each object, (detections, objects); with a crowd: intersection over detection."""
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
