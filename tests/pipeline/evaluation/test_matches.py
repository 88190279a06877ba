"""AP from matches: equal to pycocotools, and with drawn images equal to a data set of these."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco
from pipeline.evaluation import ground_truth as truth
from pipeline.evaluation.matches import Matches
from tests.support.random_scenes import repeat_images, scenes


def means(metrics: coco.CocoMetrics) -> list[float | None]:
    ap = Matches.of(metrics.evaluation).average_precision()
    return [None if np.isnan(values).all() else float(np.mean(values)) for values in ap]


def expected(metrics: coco.CocoMetrics, objects: AnnotationSet) -> list[float | None]:
    ordered = sorted(objects.categories, key=lambda category: category.id)
    return [metrics.per_class[category.name]["AP"] for category in ordered]


@settings(max_examples=100, deadline=None)
@given(scenes())
def test_ap_equals_that_of_pycocotools(scene: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    metrics = coco.evaluate(*scene)
    assert means(metrics) == pytest.approx(expected(metrics, scene[0]), abs=1e-9)


def test_ap_equals_that_of_pycocotools_on_coco(coco_fixture: Path) -> None:
    objects = truth.read(coco_fixture / "gt.json")
    metrics = coco.evaluate(objects, results.read(coco_fixture / "dets.json", objects))
    assert means(metrics) == pytest.approx(expected(metrics, objects), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(scenes(), st.lists(st.booleans(), min_size=3, max_size=3))
def test_drawn_images_are_a_data_set(scene: tuple[AnnotationSet, tuple[Detection, ...]], drawn: Sequence[bool]) -> None:
    ap = Matches.of(coco.evaluate(*scene).evaluation).average_precision(np.array(drawn))
    copies = repeat_images(*scene, drawn)
    if not copies[0].images:
        assert np.isnan(ap).all()
        return
    np.testing.assert_allclose(ap, Matches.of(coco.evaluate(*copies).evaluation).average_precision(), atol=1e-9)


def test_leave_one_out_precision_by_hand() -> None:
    """Detections right, wrong, ignored, right for three objects; wrong, right for one; none for two.

    Two classes have no objects, and one of them two detections.
    """
    matches = Matches(
        iou_thresholds=np.array([0.5]),
        class_starts=np.array([0, 4, 6, 6, 6, 8]),
        indices=np.arange(8),
        images=np.zeros(8, dtype=np.int64),
        scores=np.linspace(0.9, 0.2, 8),
        correct=np.array([[True, False, False, True, False, True, False, False]]),
        ignored=np.array([[False, False, True, False, False, False, False, False]]),
        objects=np.array([[3.0], [1.0], [2.0], [0.0], [0.0]]),
    )
    of_first = 1 / 2  # one of two classes with objects begins with a correct detection
    # Before the fourth detection are 1 of 2 other objects, which stand for 1.5 of 3, and 1 wrong detection.
    expected = [(of_first + 1.5 / (1.5 + 1) + 0) / 3, of_first, 0, np.nan, np.nan]
    np.testing.assert_allclose(matches.leave_one_out_precision()[:, 0], expected)
