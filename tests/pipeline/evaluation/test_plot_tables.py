"""The tables behind the plots, against values worked out by hand and slow computations."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import ground_truth, report
from pipeline.evaluation.plot_tables import BACKGROUND, Table, plot_tables
from tests.support.random_scenes import scenes

A, B = (0.0, 0.0, 40.0, 40.0), (100.0, 0.0, 40.0, 40.0)
ELSEWHERE = (300.0, 300.0, 9.0, 9.0)


def tables(truth: AnnotationSet, detections: Sequence[Detection]) -> dict[str, Table]:
    return plot_tables(truth, detections, report.evaluate(truth, detections))


def rows(table: Table) -> list[tuple[Any, ...]]:
    return list(zip(*table.values(), strict=True))


@pytest.fixture
def one(cats: Any, found: Any) -> dict[str, Table]:
    """Two cats; a correct and a wrong detection. The class dog has no objects."""
    scene = cats(A, B)
    scene = AnnotationSet((*scene.categories, Category(9, "dog")), scene.images, scene.annotations)
    return tables(scene, found((A, 0.9), (ELSEWHERE, 0.7)))


def test_precision_and_recall(one: dict[str, Table]) -> None:
    assert set(one["precision_recall_by_class"]["class"]) == {"cat"}
    for name in ("precision_recall", "precision_recall_by_class"):
        np.testing.assert_allclose(one[name]["recall"], np.arange(101) / 100)
        assert list(one[name]["precision"]) == [1.0] * 51 + [0.0] * 50


def test_f1_over_the_score_threshold(one: dict[str, Table]) -> None:
    at = {round(score, 2): values for score, *values in rows(one["scores"])}
    assert list(at) == [n / 100 for n in range(91)]  # up to the highest score
    assert at[0.7] == [0.5, 0.5, 0.5]
    assert at[0.71] == at[0.9] == pytest.approx([1.0, 0.5, 2 / 3])
    assert list(one["f1_by_class"]["F1"]) == pytest.approx([0.5] * 71 + [2 / 3] * 20 + [0.0] * 10)


def test_reliability(one: dict[str, Table]) -> None:
    assert [list(one["reliability"][name]) for name in ("correct", "detections")] == [[0.0, 1.0], [1, 1]]
    assert list(one["reliability"]["score"]) == list(one["reliability"]["perfect"]) == pytest.approx([0.7, 0.9])


def test_bars(one: dict[str, Table], coco_fixture: Path) -> None:
    assert list(one["class_ap"]["class"]) == ["cat"]
    objects = ground_truth.read(coco_fixture / "gt.json")
    detections = results.read(coco_fixture / "dets.json", objects)
    found = report.evaluate(objects, detections)
    drawn = plot_tables(objects, detections, found)
    expected = {name: values for name, values in found.metrics["per_class"].items() if values["AP"] is not None}
    bounds = {name: (values["AP"], values["AP_low"], values["AP_high"]) for name, values in expected.items()}
    # The objects of some classes are in a single image, which has no interval.
    known = [(name, *values) for name, values in bounds.items() if None not in values]
    assert 0 < len(known) < len(bounds)
    assert [name for name, *_ in rows(drawn["class_ap"])] == list(bounds)
    assert [row for row in rows(drawn["class_ap"]) if not np.isnan(row[2])] == known
    costs = [(kind.replace("_", " "), error["AP50_cost"]) for kind, error in found.metrics["errors"].items()]
    assert rows(drawn["error_costs"]) == costs
    # The area under the curves is COCO's AP50.
    precision = np.reshape(drawn["precision_recall_by_class"]["precision"], (len(expected), 101))
    assert precision.mean(axis=1) == pytest.approx([values["AP50"] for values in expected.values()], abs=1e-6)
    assert np.mean(drawn["precision_recall"]["precision"]) == pytest.approx(found.metrics["coco"]["AP50"], abs=1e-6)
    bins = drawn["reliability"]
    gaps = abs(np.subtract(bins["correct"], bins["score"])) * bins["detections"] / np.sum(bins["detections"])
    assert gaps.sum() == pytest.approx(found.metrics["calibration_error"], abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(scenes())
def test_f1_by_counting(scene: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    found = report.evaluate(*scene)
    for name, point in found.operating_points.classes.items():
        if point:
            by_class = plot_tables(*scene, found)["f1_by_class"]
            curve = [f1 for other, _, f1 in rows(by_class) if other == name]
            assert max(curve) == pytest.approx(point.f1)


def test_no_detections_and_no_objects(cats: Any, found: Any) -> None:
    without = tables(cats(A), [])
    assert without["precision_recall"]["precision"][0] == without["scores"]["F1"][0] == 0
    assert len(without["reliability"]["score"]) == 0
    assert rows(without["confusion"])[1][:3] == ("cat", BACKGROUND, 1)
    empty = tables(cats(), found((A, 0.5)))
    assert (empty["class_ap"]["class"], empty["f1_by_class"]["class"]) == ([], [])
    assert rows(empty["confusion"])[2][:3] == (BACKGROUND, "cat", 1)


def noisy_scene(seed: int) -> tuple[AnnotationSet, list[Detection]]:
    """Overlapping objects of three classes, some of them crowds, and detections near them, often of another class."""
    rng = np.random.default_rng(seed)
    objects, found = list[Annotation](), list[Detection]()
    for image in range(1, 31):
        for _ in range(6):
            box = (*rng.uniform(0, 120, 2), *rng.uniform(30, 60, 2))
            label, crowd = int(rng.integers(1, 4)), int(rng.random() < 0.15)
            objects.append(Annotation(len(objects), image, label, box, box[2] * box[3], crowd))
            for _ in range(rng.integers(0, 3)):
                near = tuple(np.array(box) + rng.normal(0, 5, 4))
                other = label if rng.random() < 0.7 else int(rng.integers(1, 4))
                found.append(Detection(image, other, near, float(rng.random())))
    images = tuple(Image(number, f"{number}.jpg", 200, 200) for number in range(1, 31))
    return AnnotationSet(tuple(Category(k, f"c{k}") for k in (1, 2, 3)), images, tuple(objects)), found


def overlap(a: Any, b: Any, crowd: int) -> float:
    width, height = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    common = max(width, 0) * max(height, 0)
    return float(common / (a[2] * a[3] if crowd else a[2] * a[3] + b[2] * b[3] - common))


def best(found: Detection, objects: list[Annotation]) -> Annotation | None:
    near = [(overlap(found.bbox, item.bbox, item.iscrowd), item) for item in objects]
    return max((pair for pair in near if pair[0] >= 0.5), key=lambda pair: pair[0], default=(0, None))[1]


def without_detections_of_crowds(objects: list[Annotation], ranked: list[Detection]) -> list[Detection]:
    """By class, as in COCO: a detection without a free object of its class may belong to a crowd of its class."""
    free, kept = [item for item in objects if not item.iscrowd], []
    for found in ranked:
        match = best(found, [item for item in free if item.category_id == found.category_id])
        if match:
            free.remove(match)
        crowds = [item for item in objects if item.iscrowd and item.category_id == found.category_id]
        if match or not best(found, crowds):
            kept.append(found)
    return kept


@pytest.mark.parametrize("seed", range(3))
def test_confusion(seed: int) -> None:
    truth, detections = noisy_scene(seed)
    found = report.evaluate(truth, detections)
    lowest = {k: point.score for k in (1, 2, 3) if (point := found.operating_points.classes[f"c{k}"])}
    expected = np.zeros((4, 4), dtype=int)
    for image in truth.images:
        objects = [item for item in truth.annotations if item.image_id == image.id]
        ranked = sorted((item for item in detections if item.image_id == image.id), key=lambda item: -item.score)
        free = [item for item in objects if not item.iscrowd]
        for detection in without_detections_of_crowds(objects, ranked):
            if detection.score >= lowest[detection.category_id]:
                match = best(detection, free)
                expected[match.category_id - 1 if match else 3, detection.category_id - 1] += 1
                if match:
                    free.remove(match)
        for item in free:
            expected[item.category_id - 1, 3] += 1
    table = plot_tables(truth, detections, found)["confusion"]
    labels = ["c1", "c2", "c3", BACKGROUND]
    assert [row[:2] for row in rows(table)] == [(actual, predicted) for actual in labels for predicted in labels]
    np.testing.assert_array_equal(np.reshape(table["count"], (4, 4)), expected)
    np.testing.assert_allclose(
        np.reshape(table["share"], (4, 4)), expected / np.maximum(expected.sum(axis=1, keepdims=True), 1)
    )
