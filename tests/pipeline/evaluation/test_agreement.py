"""Random scenes: hotcoco against pycocotools, and the VOC metric against a slow reference."""

from pathlib import Path

import pytest
from hypothesis import given, settings

from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, voc
from pipeline.evaluation import ground_truth as truth
from tests.support.random_scenes import scenes


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_hotcoco_equals_pycocotools(scene: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    assert coco.fast_ap(*scene) == pytest.approx(coco.evaluate(*scene).values, abs=1e-6)


def test_hotcoco_equals_pycocotools_on_coco(coco_fixture: Path) -> None:
    objects = truth.read(coco_fixture / "gt.json")
    detections = results.read(coco_fixture / "dets.json", objects)
    assert coco.fast_ap(objects, detections) == pytest.approx(coco.evaluate(objects, detections).values, abs=1e-6)


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def verdicts(truth: AnnotationSet, detections: tuple[Detection, ...], category: int) -> list[bool]:
    """Whether each counted detection is correct, highest score first."""
    taken: set[int] = set()
    judged = []
    for detection in sorted((d for d in detections if d.category_id == category), key=lambda d: d.score, reverse=True):
        best, best_overlap = None, 0.0
        for each in truth.annotations:
            shared = overlap(detection.bbox, each.bbox)
            if (each.image_id, each.category_id) == (detection.image_id, category) and shared > best_overlap:
                best, best_overlap = each, shared
        if best is None or best_overlap < 0.5:
            judged.append(False)
        elif not (best.difficult or best.iscrowd):
            judged.append(best.id not in taken)
            taken.add(best.id)
    return judged


def average_precisions(judged: list[bool], objects: int) -> tuple[float, float]:
    """The 11-point and area definitions, literally."""
    points = [(sum(judged[: n + 1]) / objects, sum(judged[: n + 1]) / (n + 1)) for n in range(len(judged))]
    eleven = sum(max([p for r, p in points if r >= k * 0.1], default=0.0) for k in range(11)) / 11
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return eleven, area


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_voc_equals_the_slow_reference(scene: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    truth, detections = scene
    metrics = voc.evaluate(truth, detections)
    elevens, areas = [], []
    for category in truth.categories:
        mine = [each for each in truth.annotations if each.category_id == category.id]
        objects = sum(not (each.difficult or each.iscrowd) for each in mine)
        curve = metrics.per_class[category.name]
        judged = verdicts(truth, detections, category.id)
        assert (curve.objects, curve.correct.tolist()) == (objects, judged)
        if objects:
            eleven, area = average_precisions(judged, objects)
            assert curve.average_precision_11point() == pytest.approx(eleven)
            assert curve.average_precision_area() == pytest.approx(area)
            elevens.append(eleven)
            areas.append(area)
        else:
            assert curve.average_precision_11point() is curve.average_precision_area() is None
    assert metrics.mAP50_11point == (pytest.approx(sum(elevens) / len(elevens)) if elevens else None)
    assert metrics.mAP50_area == (pytest.approx(sum(areas) / len(areas)) if areas else None)
