"""Intervals of AP, on detections whose AP with very many images is known."""

import numpy as np
import pytest

from benchmarks import interval_coverage
from benchmarks.interval_coverage import THRESHOLDS, synthetic_matches
from pipeline.evaluation import resampling
from pipeline.evaluation.matches import Matches
from pipeline.evaluation.resampling import Interval, interval


def test_intervals_contain_the_true_values_about_as_often_as_they_say() -> None:
    """benchmarks/results has the coverage over more trials."""
    rng = np.random.default_rng(0)
    truth = interval_coverage.true_metrics(2, 2.0, rng, images=20_000)
    trials = [interval_coverage.intervals(synthetic_matches(100, 2, 2.0, rng), draws=50)[1] for _ in range(50)]
    contained = [(low <= truth) & (truth <= high) for low, high in (bounds.T for bounds in trials)]
    assert np.all(np.sum(contained, axis=0) >= [44] * 4)


def test_equal_images_have_an_interval_of_one_value() -> None:
    correct = np.tile([[True, False]], (10, 20))
    images = np.repeat(np.arange(20), 2)
    scores = np.tile([0.9, 0.1], 20)
    order = np.argsort(-scores, kind="stable")
    matches = Matches(
        THRESHOLDS,
        np.array([0, 40]),
        order,
        images[order],
        scores[order],
        correct[:, order],
        ~correct & False,
        np.ones((1, 20)),
    )
    draws = resampling.mean(resampling.resample(matches, draws=20)[:, 0], axis=1)
    assert draws == pytest.approx(1)
    # With half an object of 20 missed, AP is 0.975 ± 0.025; the quantile of Student's t for 19 degrees is 2.0930.
    logit, reach = np.log(0.975 / 0.025), 2.0930 * 0.025 / (0.975 * 0.025)
    assert interval(draws, 1.0, np.ones(20)) == Interval(pytest.approx(1 / (1 + np.exp(reach - logit)), abs=1e-4), 1.0)


def test_an_interval_by_hand() -> None:
    """Halves with an AP of 0.6 ± 0.1 on average, whereas all 40 images have 0.55."""
    draws = np.tile([0.5, 0.7, np.nan], 50)
    center = 0.55 - 0.05 / (2 ** (2 / 3) - 1)  # AP of n images is too high by n to the power of −2/3
    reach = 2.0227 * 0.1 * np.sqrt(100 / 99) / (center * (1 - center))  # of Student's t for 39 degrees
    low, high = (1 / (1 + np.exp(-np.log(center / (1 - center)) - sign * reach)) for sign in (-1, 1))
    expected = Interval(pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert interval(draws, 0.55, np.ones(40)) == expected
    # Two images with 30 objects each and 20 with one count like 80² / (2 · 30² + 20) = 3.5 images: t is 3.558.
    wide = interval(draws, 0.55, np.array([30.0] * 2 + [1.0] * 20))
    longer = (np.log(wide.high / (1 - wide.high)) - np.log(center / (1 - center))) / reach  # type: ignore[operator]
    assert longer == pytest.approx(3.558 / 2.0227, rel=0.02)


def test_with_few_objects_an_interval_reaches_from_the_most_to_the_least_correction() -> None:
    draws = np.array([0.5, 0.6, 0.7, 0.6])
    deviation, t = draws.std(ddof=1), 2.0227  # of Student's t for 39 degrees

    def bound(center: float, sign: int) -> float:
        return float(1 / (1 + np.exp(-np.log(center / (1 - center)) - sign * t * deviation / (center * (1 - center)))))

    by_halves = 0.55 - 0.05 / (2 ** (2 / 3) - 1)
    for leave_one_out, lowest in ((0.4, 0.4), (0.5, by_halves)):
        found = interval(draws, 0.55, np.ones(40), leave_one_out=leave_one_out)
        assert found.low == pytest.approx(bound(lowest, -1), abs=1e-4)
        assert found.high == pytest.approx(bound(0.55, 1), abs=1e-4)


def test_intervals_of_means_use_the_other_estimate_for_classes_with_few_objects() -> None:
    rng = np.random.default_rng(0)
    many = synthetic_matches(100, 2, 2.0, rng)
    few = synthetic_matches(60, 2, 0.1, rng)
    assert many.objects.sum(axis=1).min() >= resampling.FEW_OBJECTS > few.objects.sum(axis=1).max()
    for matches, is_few in ((many, False), (few, True)):
        draws = resampling.resample(matches, draws=20)
        ap = resampling.mean(resampling.mean(matches.average_precision(), 1), 0)
        other = resampling.mean(resampling.mean(matches.leave_one_out_precision(), 1), 0)
        means = resampling.mean(resampling.mean(draws, 2), 1)
        expected = interval(
            means, float(ap), matches.objects.sum(axis=0), leave_one_out=float(other) if is_few else None
        )
        assert resampling.intervals_of_means(matches, draws)["AP"] == expected


def test_an_interval_contains_the_estimate() -> None:
    """Even if halves say that it is far too high."""
    draws = np.array([0.69, 0.7, 0.71])
    assert interval(draws, 0.5, np.full(100, 1.0)).high == 0.5


def test_an_unknown_value_and_objects_in_a_single_image_have_no_interval() -> None:
    assert interval(np.full(5, np.nan), None, np.zeros(4)) == Interval(None, None)
    assert interval(np.array([0.5, 0.6, 0.7]), 0.5, np.array([0.0, 7.0])) == Interval(None, None)
    assert interval(np.array([0.5, np.nan]), 0.5, np.ones(4)) == Interval(None, None)


def test_draws_are_the_same_for_two_detectors() -> None:
    first, second = (resampling.draw_halves(7, 30, seed=1) for _ in range(2))
    assert np.array_equal(first, second)
    assert set(first.sum(axis=1)) == {3}
    assert np.all(first.sum(axis=0) > 0)


def test_a_single_image_has_no_interval() -> None:
    matches = synthetic_matches(1, 2, 4.0, np.random.default_rng(0))
    draws = resampling.resample(matches, draws=5)
    assert draws.shape == (5, 2, 10)
    assert interval(draws[:, 0, 0], 0.5, matches.objects[0]) == Interval(None, None)


@pytest.mark.parametrize(("images", "t"), [(6, 2.5706), (10, 2.2622), (31, 2.0423), (2001, 1.9612)])
def test_the_interval_of_a_difference_by_hand(images: int, t: float) -> None:
    """Quantiles of Student's t distribution from a table; the draws' standard deviation is 0.1."""
    found = resampling.difference_interval(np.array([0.1, 0.2, 0.3, np.nan]), 0.25, images)
    reach = t * 0.1
    assert (found.low, found.high) == (pytest.approx(0.25 - reach, abs=1e-3), pytest.approx(0.25 + reach, abs=1e-3))


def test_the_difference_in_a_single_image_has_no_interval() -> None:
    assert resampling.difference_interval(np.array([0.1, 0.2]), 0.1, 1) == Interval(None, None)
