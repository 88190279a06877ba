"""The VOC metric on cases computed by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.evaluation import scenes
from pipeline.evaluation import ground_truth as truth
from pipeline.evaluation import voc

A, B, C, D = ((x, 0.0, 40.0, 40.0) for x in (0.0, 100.0, 200.0, 300.0))
FAR = (0.0, 300.0, 40.0, 40.0)


def test_by_hand(cats: Any, found: Any) -> None:
    """Four objects; detections correct, wrong, correct, wrong, correct.

    Recall 1/4 1/4 2/4 2/4 3/4, precision 1/1 1/2 2/3 2/4 3/5.
    Area: 1/4 · 1 + 1/4 · 2/3 + 1/4 · 3/5. Eleven points: 0, 0.1, 0.2 → 1; 0.3, 0.4, 0.5 → 2/3; 0.6, 0.7 → 3/5.
    """
    metrics = voc.evaluate(cats(A, B, C, D), found((A, 0.9), (FAR, 0.8), (B, 0.7), (FAR, 0.6), (C, 0.5)))
    curve = metrics.per_class["cat"]
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 2 / 4, 3 / 5])
    assert metrics.mAP50_area == pytest.approx((1 + 2 / 3 + 3 / 5) / 4)
    assert metrics.mAP50_11point == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11)


def test_a_second_match_is_wrong_even_if_another_object_is_free(cats: Any, found: Any) -> None:
    """The second box has IoU 36/44 with the matched object and 33/47 with the free one, which COCO would match."""
    near = (10.0, 0.0, 40.0, 40.0)
    scene = cats((6.0, 0.0, 40.0, 40.0), (17.0, 0.0, 40.0, 40.0))
    curve = voc.evaluate(scene, found(((6.0, 0.0, 40.0, 40.0), 0.9), (near, 0.8))).per_class["cat"]
    assert curve.correct.tolist() == [True, False]


def test_an_iou_of_one_half_is_enough(cats: Any, found: Any) -> None:
    scene = cats((0.0, 0.0, 40.0, 40.0))
    assert voc.evaluate(scene, found(((0.0, 0.0, 20.0, 40.0), 0.9))).mAP50_area == 1
    assert voc.evaluate(scene, found(((0.0, 0.0, 19.9, 40.0), 0.9))).mAP50_area == 0


@pytest.mark.parametrize("kind", ["difficult", "crowds"])
def test_ignored_objects_are_neither_missed_nor_wrong(cats: Any, found: Any, kind: str) -> None:
    scene = cats(A, B, **{kind: (1,)})
    for detections in (found((A, 0.5)), found((B, 0.9), (B, 0.8), (A, 0.5))):
        metrics = voc.evaluate(scene, detections)
        assert metrics.mAP50_area == metrics.mAP50_11point == 1
    assert voc.evaluate(cats(A, B), found((A, 0.5))).mAP50_area == 0.5


def test_without_detections_and_without_objects(cats: Any, found: Any) -> None:
    missed, empty = voc.evaluate(cats(A), ()), voc.evaluate(cats(), found((A, 0.5)))
    assert missed.mAP50_area == missed.mAP50_11point == 0
    assert empty.mAP50_area is empty.mAP50_11point is None
    assert voc.evaluate(cats(), ()).per_class["cat"].precision_at(10).tolist() == [0] * 11


def test_a_recall_of_three_tenths_does_not_reach_the_fourth_point(cats: Any, found: Any) -> None:
    """As in the development kit: 3 × 0.1 is 0.30000000000000004, so three of ten objects reach 0, 0.1 and 0.2."""
    boxes = [(40.0 * n, 0.0, 30.0, 30.0) for n in range(10)]
    metrics = voc.evaluate(cats(*boxes), found(*((box, 0.5) for box in boxes[:3])))
    assert metrics.mAP50_11point == pytest.approx(3 / 11)
    assert metrics.mAP50_area == pytest.approx(3 / 10)


def test_ground_truth_as_detections_scores_one(coco_fixture: Path, perfect: Any) -> None:
    objects = truth.read(coco_fixture / "gt.json")
    metrics = voc.evaluate(objects, perfect(objects))
    assert metrics.mAP50_area == metrics.mAP50_11point == pytest.approx(1)


def test_chunks_of_detections_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    objects, detections = scenes(5, 60, 20, 3)
    whole = voc.evaluate(objects, detections)
    monkeypatch.setattr(voc, "_CHUNK", 7)
    chunked = voc.evaluate(objects, detections)
    assert (chunked.mAP50_11point, chunked.mAP50_area) == (whole.mAP50_11point, whole.mAP50_area)
    assert whole.mAP50_area
