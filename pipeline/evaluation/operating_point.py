"""The operating point: the score thresholds with the best F1, at which a detector is to be used."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipeline.data.annotations import AnnotationSet
from pipeline.evaluation.matches import Bools, Floats, Matches, class_names

IOU = 0.5  # lowest IoU of a correct detection
MIN_IMAGES_TO_CONFIRM = 200


@dataclass(frozen=True, slots=True)
class Point:
    """A threshold, and what results from keeping the detections with at least this score; None if undefined."""

    score: float
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class OperatingPoints:
    """A point for all classes together and one for each class.

    None: no detection is correct, or for a class: it has no objects.
    """

    all: Point | None
    classes: Mapping[str, Point | None]
    confirmed: bool  # whether precision, recall and F1 are those of images that the thresholds were not chosen on

    def summary(self) -> dict[str, float | None]:
        """Means over the classes with objects that have the value, and the threshold for all classes together."""
        points = [point for point in self.classes.values() if point and point.recall is not None]
        return {
            "score": self.all.score if self.all else None,
            "precision": _mean(point.precision for point in points),
            "recall": _mean(point.recall for point in points),
            "f1": _mean(point.f1 for point in points),
        }

    def to_json(self) -> dict[str, Any]:
        """For predictions/operating_point.json; rounded to six decimals."""
        classes = {name: point and _rounded(point) for name, point in self.classes.items()}
        return {"confirmed": self.confirmed, "all": self.all and _rounded(self.all), "classes": classes}


def choose(matches: Matches, truth: AnnotationSet) -> OperatingPoints:
    """Chooses the thresholds with the best F1 at an IoU of 0.5.

    The threshold for all classes maximizes the F1 of all detections together. A class without a correct detection has
    that threshold. From 200 images on, thresholds are chosen on every other image, and precision, recall and F1 are
    measured on the rest, since the maximum of many values is optimistic on the images that it was chosen on.
    """
    images = matches.objects.shape[1]
    confirmed = images >= MIN_IMAGES_TO_CONFIRM
    chosen_on = np.arange(images) % 2 == 0 if confirmed else np.ones(images, dtype=bool)
    measured_on = ~chosen_on if confirmed else chosen_on
    labels = np.repeat(np.arange(len(matches.objects)), np.diff(matches.class_starts))

    def point(selected: Bools, objects: Floats, default: Point | None = None) -> Point | None:
        score = _best_score(matches, selected & chosen_on[matches.images], objects[:, chosen_on].sum())
        if score is None and default and objects.any():
            score = default.score
        if score is None:
            return None
        kept = selected & measured_on[matches.images] & (matches.scores >= score)
        return _measure(matches, kept, objects[:, measured_on].sum(), score)

    together = point(np.ones(len(labels), dtype=bool), matches.objects)
    return OperatingPoints(
        all=together,
        classes={
            name: point(labels == label, matches.objects[[label]], together)
            for label, name in enumerate(class_names(truth))
        },
        confirmed=confirmed,
    )


def measure(matches: Matches, truth: AnnotationSet, chosen: OperatingPoints) -> OperatingPoints:
    """Precision, recall and F1 at thresholds that were chosen on other images.

    A class for which no threshold was chosen has that for all classes.
    """
    labels = np.repeat(np.arange(len(matches.objects)), np.diff(matches.class_starts))

    def point(selected: Bools, classes: slice, threshold: Point | None) -> Point | None:
        if threshold is None:
            return None
        kept = selected & (matches.scores >= threshold.score)
        return _measure(matches, kept, matches.objects[classes].sum(), threshold.score)

    return OperatingPoints(
        all=point(np.ones(len(labels), dtype=bool), slice(None), chosen.all),
        classes={
            name: point(labels == label, slice(label, label + 1), chosen.classes.get(name) or chosen.all)
            for label, name in enumerate(class_names(truth))
        },
        confirmed=True,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _best_score(matches: Matches, selected: Bools, objects: float) -> float | None:
    """The score at which the selected detections have the highest F1; the highest such score."""
    threshold = int(np.argmin(abs(matches.iou_thresholds - IOU)))
    selected = selected & ~matches.ignored[threshold]
    scores, correct = matches.scores[selected], matches.correct[threshold][selected]
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], np.cumsum(correct[order])
    if not objects or not len(found) or not found[-1]:
        return None
    # 2 · precision · recall / (precision + recall) = 2 · correct / (detections + objects)
    f1 = 2 * found / (np.arange(1, len(found) + 1) + objects)
    f1[:-1][scores[:-1] == scores[1:]] = 0  # detections with equal scores are kept together
    # Rounded down, so that a detection with this score is kept when the file has been read.
    return math.floor(float(scores[np.argmax(f1)]) * 1e6) / 1e6


def _measure(matches: Matches, kept: Bools, objects: float, score: float) -> Point:
    threshold = int(np.argmin(abs(matches.iou_thresholds - IOU)))
    correct = int(matches.correct[threshold][kept].sum())
    detections = int((~matches.ignored[threshold])[kept].sum())
    return Point(
        score=score,
        precision=correct / detections if detections else None,
        recall=correct / objects if objects else None,
        f1=2 * correct / (detections + objects) if detections + objects else None,
    )


def _rounded(point: Point) -> dict[str, float | None]:
    return {name: None if value is None else round(value, 6) for name, value in asdict(point).items()}
