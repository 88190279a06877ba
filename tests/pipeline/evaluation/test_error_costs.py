"""The cost of each kind of error equals that of hotcoco, and varies over draws as in a plain bootstrap."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, error_costs, ground_truth, resampling
from pipeline.evaluation.diagnostics import diagnose
from pipeline.evaluation.matches import Matches
from tests.support.random_scenes import detected_objects, repeat_images, scenes


def corrected(truth: AnnotationSet, detections: Sequence[Detection]) -> tuple[Matches, dict[str, Matches]]:
    evaluation = coco.evaluate(truth, detections).evaluation
    matches = Matches.of(evaluation)
    return matches, error_costs.correct_errors(truth, detections, evaluation, matches)


def costs(truth: AnnotationSet, detections: Sequence[Detection]) -> dict[str, float | None]:
    matches, without = corrected(truth, detections)
    ap50 = matches.average_precision()[:, 0]
    gains = {kind: np.nan_to_num(item.average_precision()[:, 0]) - ap50 for kind, item in without.items()}
    return {kind: None if np.isnan(gain).all() else float(np.nanmean(gain)) for kind, gain in gains.items()}


def costs_of_hotcoco(truth: AnnotationSet, detections: Sequence[Detection]) -> dict[str, float | None]:
    return {kind: error["AP50_cost"] for kind, error in diagnose(truth, detections)["errors"].items()}


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_costs_are_those_of_hotcoco(scene: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    """With crowds, equal scores, and IoUs of exactly 0.5."""
    assert costs(*scene) == pytest.approx(costs_of_hotcoco(*scene), abs=1e-9)


def test_costs_are_those_of_hotcoco_with_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_costs, "_CHUNK", 100)
    scene = detected_objects(0)
    expected = costs_of_hotcoco(*scene)
    assert costs(*scene) == pytest.approx(expected, abs=1e-9)
    assert min(value or 0 for value in expected.values()) > 0


def test_costs_are_those_of_hotcoco_on_coco(coco_fixture: Path) -> None:
    truth = ground_truth.read(coco_fixture / "gt.json")
    found = results.read(coco_fixture / "dets.json", truth)
    assert costs(truth, found) == pytest.approx(costs_of_hotcoco(truth, found), abs=1e-9)


def test_errors_by_hand() -> None:
    """A poor box and a wrong class for the same object: the one with the higher score is corrected."""
    box, near = (0.0, 0.0, 40.0, 40.0), (20.0, 0.0, 40.0, 40.0)  # IoU: 800 / 2400
    truth = AnnotationSet(
        (Category(1, "cat"), Category(2, "dog")),
        (Image(1, "1.jpg", 100, 100),),
        (Annotation(1, 1, 1, box, 1600.0), Annotation(2, 1, 2, (60.0, 60.0, 20.0, 20.0), 400.0)),
    )
    expected = {"poor_box": 0.5, "wrong_class": 0.0, "missed": 0.0}  # of the two classes, AP50 of cats becomes 1
    found = [Detection(1, 1, near, 0.9), Detection(1, 2, box, 0.8)]
    assert costs(truth, found) == pytest.approx(dict.fromkeys(costs(truth, found), 0.0) | expected)
    found = [Detection(1, 1, near, 0.7), Detection(1, 2, box, 0.8)]
    expected = {"poor_box": 0.0, "wrong_class": 0.5, "missed": 0.0}
    assert costs(truth, found) == pytest.approx(dict.fromkeys(costs(truth, found), 0.0) | expected)


def test_costs_vary_as_in_a_plain_bootstrap() -> None:
    """Images drawn with replacement, and all of them evaluated again, by hotcoco."""
    truth, found = detected_objects(1, images=60)
    rng, rows = np.random.default_rng(0), []
    for _ in range(100):
        repeated = repeat_images(truth, found, np.bincount(rng.integers(0, 60, 60), minlength=60).tolist())
        rows.append(costs_of_hotcoco(*repeated))
    matches, without = corrected(truth, found)
    ap50 = resampling.resample(matches, 100)[..., 0]
    for kind, item in without.items():
        expected = np.std([row[kind] or 0 for row in rows])
        assert error_costs.resample(item, ap50).std() == pytest.approx(expected, rel=0.25), kind
