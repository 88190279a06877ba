"""TIDE and calibration of hotcoco against slow computations by the papers' definitions."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, ground_truth
from pipeline.evaluation.diagnostics import count_objects_beyond_limit, diagnose
from tests.support.random_scenes import detected_objects


def iou(a: Any, b: Any) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return float(common / (a[2] * a[3] + b[2] * b[3] - common))


def ap50(objects: int, ranked: list[bool]) -> float:
    found = np.cumsum(ranked)
    if not (objects and ranked):
        return 0.0
    precision = np.maximum.accumulate((found / np.arange(1, len(ranked) + 1))[::-1])[::-1]
    return float(np.append(precision, 0)[np.searchsorted(found / objects, np.linspace(0, 1, 101))].mean())


class Tide:
    """The kinds of errors and their costs (2008.08115, sections 2.2 and 2.3).

    As in the authors' code, of several detections that could be corrected to one object, by class or by box, only the
    one with the highest score is; the others are removed.
    """

    def __init__(self, truth: AnnotationSet, found: list[Detection]) -> None:
        self.truth, self.by_image = truth, truth.by_image()
        self.classes = sorted({item.category_id for item in truth.annotations if not item.iscrowd})
        self.found = sorted(found, key=lambda item: -item.score)
        self.kinds, self.objects, self.matched = list[str](), list[Annotation | None](), set[int]()
        correct = [self.match(item) for item in self.found]
        for item, match in zip(self.found, correct, strict=True):
            kind, related = ("correct", match) if match else self.classify(item)
            self.kinds.append(kind)
            self.objects.append(related)
        corrected = {
            related.id
            for kind, related in zip(self.kinds, self.objects, strict=True)
            if related and kind in ("poor_box", "wrong_class")
        }
        self.missed = [item for item in truth.annotations if item.id not in self.matched | corrected]

    def match(self, found: Detection) -> Annotation | None:
        same = [item for item in self.near(found) if item.category_id == found.category_id]
        free = [item for item in same if item.id not in self.matched and iou(found.bbox, item.bbox) >= 0.5]
        best = max(free, key=lambda item: iou(found.bbox, item.bbox), default=None)
        if best:
            self.matched.add(best.id)
        return best

    def near(self, found: Detection) -> list[Annotation]:
        return self.by_image[found.image_id]

    def classify(self, found: Detection) -> tuple[str, Annotation | None]:
        def best(same: bool) -> tuple[float, Annotation | None]:
            rivals = [item for item in self.near(found) if (item.category_id == found.category_id) == same]
            return max(
                ((iou(found.bbox, item.bbox), item) for item in rivals), key=lambda pair: pair[0], default=(0, None)
            )

        (same_iou, same), (other_iou, other) = best(same=True), best(same=False)
        if 0.1 <= same_iou < 0.5:
            return "poor_box", same
        if other_iou >= 0.5:
            return "wrong_class", other
        if same_iou >= 0.5:
            return "duplicate", same
        return ("background" if max(same_iou, other_iou) < 0.1 else "wrong_class_and_poor_box"), None

    def ap(self, corrected: str = "") -> float:
        return float(np.mean([self.class_ap(label, corrected) for label in self.classes]))

    def class_ap(self, label: int, corrected: str) -> float:
        ranked, claimed = list[bool](), set[int]()
        for found, kind, related in zip(self.found, self.kinds, self.objects, strict=True):
            category, correct = found.category_id, kind == "correct"
            first = related is not None and not (related.id in self.matched or related.id in claimed)
            if related and kind in ("poor_box", "wrong_class"):
                claimed.add(related.id)
            if kind == corrected:
                if not related or kind == "duplicate" or not first:
                    continue
                category, correct = related.category_id, True
            if category == label:
                ranked.append(correct)
        objects = sum(item.category_id == label for item in self.truth.annotations)
        if corrected == "missed":
            objects -= sum(item.category_id == label for item in self.missed)
        return ap50(objects, ranked)


@pytest.mark.parametrize("seed", range(3))
def test_costs_and_counts_of_errors(seed: int) -> None:
    tide = Tide(*detected_objects(seed))
    errors = diagnose(*detected_objects(seed))["errors"]
    counts = Counter(tide.kinds)
    for kind, error in errors.items():
        assert error["count"] == (len(tide.missed) if kind == "missed" else counts[kind]), kind
        assert error["count"] > 0
        assert error["AP50_cost"] == pytest.approx(tide.ap(kind) - tide.ap(), abs=1e-9), kind


def calibration_error(tide: Tide) -> float:
    scores = np.array([item.score for item in tide.found])
    correct = np.array([kind == "correct" for kind in tide.kinds])
    bins = np.minimum((scores * 10).astype(int), 9)
    gaps = [abs(scores[bins == k].mean() - correct[bins == k].mean()) * (bins == k).mean() for k in np.unique(bins)]
    return float(sum(gaps))


def test_calibration_error() -> None:
    truth, found = detected_objects(0)
    assert diagnose(truth, found)["calibration_error"] == pytest.approx(calibration_error(Tide(truth, found)), abs=1e-9)
    assert diagnose(truth, [])["calibration_error"] is None


def confusion(truth: AnnotationSet, found: list[Detection]) -> Any:
    """Objects' classes by detections' classes; the last row and column are the background."""
    label = {category: index for index, category in enumerate(sorted(item.id for item in truth.categories))}
    counts = np.zeros((len(label) + 1, len(label) + 1), dtype=int)
    free = truth.by_image()
    for detection in sorted(found, key=lambda item: -item.score):
        rivals = [item for item in free[detection.image_id] if iou(detection.bbox, item.bbox) >= 0.5]
        match = max(rivals, key=lambda item: iou(detection.bbox, item.bbox), default=None)
        counts[label[match.category_id] if match else -1, label[detection.category_id]] += 1
        if match:
            free[detection.image_id].remove(match)
    for item in (item for objects in free.values() for item in objects):
        counts[label[item.category_id], -1] += 1
    return counts


def test_errors_calibration_and_confusion_of_coco(coco_fixture: Path) -> None:
    """No detection is on one of the nine crowds, so the slow computations leave them out."""
    truth = ground_truth.read(coco_fixture / "gt.json")
    found = list(results.read(coco_fixture / "dets.json", truth))
    plain = replace(truth, annotations=tuple(item for item in truth.annotations if not item.iscrowd))
    tide, diagnosis = Tide(plain, found), diagnose(truth, found)
    counts = Counter(tide.kinds) + Counter(missed=len(tide.missed))
    base = tide.ap()
    for kind, error in diagnosis["errors"].items():
        assert error["count"] == counts[kind], kind
        assert error["AP50_cost"] == pytest.approx(tide.ap(kind) - base, abs=1e-9), kind
    assert diagnosis["calibration_error"] == pytest.approx(calibration_error(tide), abs=1e-9)
    matrix = coco.confusion_matrix(truth, found, iou_threshold=0.5)
    np.testing.assert_array_equal(matrix, confusion(plain, found))
    assert matrix.sum() == 830 + 734 - matrix[:-1, :-1].sum()  # a match is an object and a detection


def test_objects_beyond_the_limit(cats: Any) -> None:
    boxes = [(float(10 * column), 0.0, 5.0, 5.0) for column in range(7)]
    assert count_objects_beyond_limit(cats(*boxes), limit=5) == 2
    assert count_objects_beyond_limit(cats(*boxes, crowds=(0, 1)), limit=5) == 0
