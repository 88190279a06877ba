"""Differences of metrics, their intervals, the images that changed, and the groups of experiments."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import comparison_trials
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, comparison, comparison_report, operating_point, resampling
from pipeline.evaluation.comparison import ChangedImage, Comparison, Difference, Draws, Evaluation
from pipeline.evaluation.comparison_report import group_by_seed
from pipeline.evaluation.matches import Matches
from tests.support.random_scenes import repeat_images

SIZES = (20.0, 50.0, 120.0)  # small, medium and large objects


def scene(images: int = 12) -> tuple[AnnotationSet, tuple[Detection, ...]]:
    """Objects of three classes and sizes, some difficult or crowds, and detections with different scores."""
    rng = np.random.default_rng(3)
    annotations, detections = [], []
    for image in range(1, images + 1):
        for _ in range(rng.integers(3, 7)):
            side, category, number = rng.choice(SIZES), int(rng.choice([5, 2, 9])), len(annotations)
            x, y = rng.uniform(0, 80, 2)
            box = (float(x), float(y), float(side), float(side))
            kind = {"iscrowd": int(number % 11 == 5), "difficult": int(number % 7 == 3)}
            annotations.append(Annotation(number, image, category, box, side * side, **kind))
            for _ in range(rng.integers(0, 3)):
                moved = tuple(float(value) for value in (*rng.normal((x, y), side / 12), side, side))
                found = category if rng.random() < 0.8 else 5
                detections.append(Detection(image, found, moved, float(rng.random())))  # type: ignore[arg-type]
    pictures = tuple(Image(number, f"{number}.jpg", 200, 200) for number in range(1, images + 1))
    classes = (Category(5, "cat"), Category(2, "dog"), Category(9, "cow"))
    return AnnotationSet(classes, pictures, tuple(annotations)), tuple(detections)


def test_a_draw_is_the_evaluation_of_the_drawn_images() -> None:
    truth, detections = scene()
    drawn = comparison.evaluate(truth, detections, draws=2)
    for draw, weights in enumerate(resampling.draw_halves(len(truth.images), 2, seed=0).astype(int)):
        copies = repeat_images(truth, detections, weights)
        # Without ties, whose order would differ.
        distinct = [replace(item, score=item.score - index * 1e-9) for index, item in enumerate(copies[1])]
        repeated = comparison.evaluate(copies[0], distinct, draws=1)
        names = [name for name in drawn.draws if not name.startswith("operating_point/")]
        assert set(names) == {name for name in drawn.values if not name.startswith("operating_point/")}
        for name in names:
            assert drawn.draws[name].values[draw] == pytest.approx(repeated.values[name], abs=1e-6), name
        for name, metrics in repeated.class_values.items():
            for metric, value in metrics.items():
                assert drawn.class_draws[name][metric].values[draw] == pytest.approx(value, abs=1e-6), (name, metric)
        chosen = operating_point.choose(Matches.of(coco.evaluate(truth, detections).evaluation), truth)
        matches = Matches.of(coco.evaluate(*copies).evaluation)
        expected = operating_point.measure(matches, copies[0], chosen).summary()
        for name in ("precision", "recall", "f1"):
            assert drawn.draws[f"operating_point/{name}"].values[draw] == pytest.approx(expected[name]), name


def test_precision_and_recall_are_those_of_the_images_that_thresholds_were_not_chosen_on() -> None:
    truth, detections = scene(images=200)
    evaluated = comparison.evaluate(truth, detections, draws=50)
    for name in ("precision", "recall", "f1"):
        name = f"operating_point/{name}"
        value, draws = evaluated.values[name], evaluated.draws[name].values
        assert value == pytest.approx(draws.mean(), abs=draws.std() / 3)


def cats(images: int) -> tuple[AnnotationSet, list[Detection]]:
    """An image for each object, and a correct detection of each."""
    boxes = [(10.0, 10.0, 40.0, 40.0)] * images
    annotations = tuple(Annotation(n, n, 7, box, 1600.0) for n, box in enumerate(boxes, start=1))
    pictures = tuple(Image(n, f"{n}.jpg", 100, 100) for n in range(1, images + 1))
    truth = AnnotationSet((Category(7, "cat"),), pictures, annotations)
    return truth, [Detection(n, 7, box, 0.9) for n, box in enumerate(boxes, start=1)]


def compare(truth: AnnotationSet, a: Sequence[Detection], b: Sequence[Detection]) -> Comparison:
    return comparison.compare(*([comparison.evaluate(truth, side, draws=50)] for side in (a, b)))


def test_differences_and_images_by_hand() -> None:
    truth, found = cats(7)
    # Image 3: the object is missed. Image 5: missed, and a wrong detection. Image 6: a duplicate, in A as well.
    duplicate = Detection(6, 7, (12.0, 10.0, 40.0, 40.0), 0.95)
    wrong = Detection(5, 7, (60.0, 60.0, 30.0, 30.0), 0.95)
    b = [item for item in found if item.image_id not in (3, 5)] + [duplicate, wrong]
    result = compare(truth, [*found, duplicate], b)
    assert result.worse == (ChangedImage(5, 0, 2), ChangedImage(3, 0, 1))
    assert result.better == ()
    assert compare(truth, b, [*found, duplicate]).better == (ChangedImage(5, 2, 0), ChangedImage(3, 1, 0))
    # AR1: with one detection in an image, A finds 7 of 7 objects, and B 5 of 7 (image 6 by the duplicate, IoU 38/42).
    difference = result.metrics["AR1"]
    at_high_iou = 1 / 7 / 10  # the duplicate is not correct at IoU 0.95
    assert (difference.a, difference.b) == (pytest.approx(1 - at_high_iou), pytest.approx(5 / 7 - at_high_iou))
    assert difference.difference == pytest.approx(-2 / 7)
    assert difference.low is not None
    assert difference.low <= -2 / 7 <= difference.high  # type: ignore[operator]


def test_equal_detections_have_no_difference() -> None:
    truth, detections = scene()
    result = compare(truth, detections, detections)
    value = result.metrics["AP"].a
    assert result.metrics["AP"] == Difference(value, value, 0, 0, 0)
    assert {found.excludes_zero for found in result.metrics.values()} == {False}
    assert (result.better, result.worse) == ((), ())


@pytest.mark.parametrize(("images", "has_interval"), [(5, False), (6, True)])
def test_an_interval_needs_six_images_with_objects(images: int, has_interval: bool) -> None:
    truth, found = cats(images)
    empty = replace(truth, images=(*truth.images, Image(99, "99.jpg", 100, 100)))
    result = compare(empty, found, found[:2])
    assert result.metrics["AP"].difference < 0  # type: ignore[operator]
    expected = True if has_interval else None
    assert result.metrics["AP"].excludes_zero is expected
    assert result.classes["cat"]["AP50"].excludes_zero is expected
    assert result.metrics["APl"] == Difference(None, None, None, None, None)  # no large objects


def test_precision_needs_six_images_with_detections() -> None:
    truth, found = cats(10)
    wrong = Detection(1, 7, (60.0, 60.0, 30.0, 30.0), 0.95)
    result = compare(truth, found[:5], [*found[:5], wrong]).metrics
    assert result["operating_point/precision"] == Difference(
        1.0, pytest.approx(5 / 6), pytest.approx(-1 / 6), None, None
    )
    assert result["operating_point/recall"].excludes_zero is False
    assert compare(truth, found[:6], [*found[:6], wrong]).metrics["operating_point/precision"].low is not None


def test_differences_are_found_and_equal_detectors_are_not_different() -> None:
    """benchmarks/results has the rates over more and larger trials."""
    equal, better = comparison_trials.run_trials(1, 3.0, 60, 0.6, 10, np.random.default_rng(0), draws=100)
    assert equal.count(0) >= 9
    assert better.count(1) >= 9


def evaluation(ap: float | None) -> Evaluation:
    draws = {} if ap is None else {"AP": Draws(np.array([ap - 0.02, ap - 0.01, ap + 0.01, ap + 0.02]), images=50)}
    return Evaluation({"AP": ap}, draws, {}, {}, {})


def report(truth: AnnotationSet, params: dict[str, dict[str, Any]], *ap: float) -> comparison_report.Report:
    return comparison_report.compare(truth, [*params], [*params.values()], [evaluation(value) for value in ap])


def test_experiments_that_differ_in_the_seed_alone_are_one_side() -> None:
    def params(loss: str, seed: int) -> dict[str, Any]:
        return {"dataset": "digits", "loss": loss, "seed": seed, "train.flip": None}

    iou, giou = {f"iou-{n}": params("iou", n) for n in (0, 1)}, {f"giou-{n}": params("giou", n) for n in (0, 1)}
    compared = report(cats(1)[0], iou | giou, 0.2, 0.4, 0.5, 0.5)
    a, b = compared.sides
    assert (a.title, b.title) == ("iou-0, iou-1 (2 seeds)", "giou-0, giou-1 (2 seeds)")
    assert a.statistics()["AP"] == (pytest.approx(0.3), pytest.approx(0.02**0.5))
    assert comparison_report.differing_params(compared.sides) == {"loss": ["iou", "giou"]}
    (result,) = compared.comparisons
    assert result.metrics["AP"].difference == pytest.approx(0.2)
    assert result.metrics["AP"].low == pytest.approx(0.2)  # both vary together, draw by draw
    assert "0.300 ± 0.141  0.500 ± 0.000  +0.200" in comparison_report.to_text(compared)
    assert comparison_report.to_json(compared)["seeds"]["A"]["AP"]["deviation"] == pytest.approx(0.02**0.5)


def test_seeds_of_one_configuration_are_compared_with_each_other() -> None:
    compared = report(cats(1)[0], {"first": {"seed": 0}, "second": {"seed": 1}}, 0.2, 0.4)
    assert [side.names for side in compared.sides] == [["first"], ["second"]]
    assert compared.seeds is not None
    assert compared.seeds.statistics()["AP"] == (pytest.approx(0.3), pytest.approx(0.02**0.5))
    assert comparison_report.to_json(compared)["parameters"] == {"seed": {"A": "0", "B": "1"}}


def test_only_known_and_distinct_seeds_are_grouped() -> None:
    one = {"loss": "iou", "seed": 0}
    assert group_by_seed([one, {}, one | {"seed": 1}, {}, one]) == [[0, 2], [1], [3], [4]]


def test_failures_by_the_difference_or_its_lower_bound() -> None:
    truth = cats(1)[0]
    compared = report(truth, {"a": {"loss": "iou"}, "b": {"loss": "giou"}}, 0.5, 0.494)
    ap = replace(compared.comparisons[0].metrics["AP"], low=-0.011)
    compared = replace(compared, comparisons=[replace(compared.comparisons[0], metrics={"AP": ap})])
    assert list(comparison_report.failures(compared, -0.0061, "difference")) == []
    assert list(comparison_report.failures(compared, -0.005, "difference")) == [
        "b: AP changes by -0.60 points from a; allowed: -0.5"
    ]
    assert list(comparison_report.failures(compared, -0.01, "lower")) == [
        "b: the lower bound of the change of AP is -1.10 points from a; allowed: -1"
    ]
    unknown = replace(compared, comparisons=[replace(compared.comparisons[0], metrics={"AP": replace(ap, low=None)})])
    assert len(list(comparison_report.failures(unknown, -1, "lower"))) == 1
