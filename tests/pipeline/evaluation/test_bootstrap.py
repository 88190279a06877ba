"""Intervals of AP, on detections whose AP with very many images is known."""

import numpy as np
import pytest

from benchmarks import interval_coverage
from benchmarks.interval_coverage import THRESHOLDS, synthetic_matches
from pipeline.evaluation import bootstrap
from pipeline.evaluation.bootstrap import Interval, interval
from pipeline.evaluation.matches import Matches


def test_intervals_contain_the_true_ap_about_as_often_as_they_say() -> None:
    """benchmarks/results has the coverage over more draws."""
    rng = np.random.default_rng(0)
    true_ap, contained = interval_coverage.true_ap(2, 2.0, rng), 0
    for _ in range(60):
        matches = synthetic_matches(100, 2, 2.0, rng)
        draws = bootstrap.resample(matches, draws=100).mean(axis=(1, 2))
        found = interval(draws, float(matches.average_precision().mean()))
        contained += found.low <= true_ap <= found.high  # type: ignore[operator]
    assert 50 <= contained <= 60


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
    draws = bootstrap.mean(bootstrap.resample(matches, draws=20)[:, 0], axis=1)
    assert interval(draws, 1.0) == Interval(pytest.approx(1), pytest.approx(1))


def test_the_correction_shifts_the_percentiles() -> None:
    values = np.linspace(0, 1, 1001)
    assert interval(values, 0.5) == Interval(pytest.approx(0.025, abs=1e-3), pytest.approx(0.975, abs=1e-3))
    # 16 % of the draws lie below the estimate, one standard deviation: the bounds lie at −3.96 and −0.04 of them.
    shifted = interval(values, 0.158655)
    assert shifted == Interval(pytest.approx(0.0, abs=1e-3), pytest.approx(0.484, abs=2e-3))


def test_a_class_without_objects_has_no_interval() -> None:
    assert interval(np.full(5, np.nan), None) == Interval(None, None)
    assert interval(np.array([0.5, np.nan]), 0.5) == Interval(0.5, 0.5)


def test_draws_are_the_same_for_two_detectors() -> None:
    first, second = (bootstrap.draw_weights(7, 3, seed=1) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.sum(axis=1).tolist() == [7, 7, 7]


def test_a_single_image_has_no_interval() -> None:
    matches = synthetic_matches(1, 2, 4.0, np.random.default_rng(0))
    draws = bootstrap.resample(matches, draws=5)
    assert draws.shape == (5, 2, 10)
    assert interval(draws[:, 0, 0], 0.5) == Interval(None, None)


@pytest.mark.parametrize(("images", "t"), [(6, 2.5706), (10, 2.2622), (31, 2.0423), (2001, 1.9612)])
def test_the_interval_of_a_difference_by_hand(images: int, t: float) -> None:
    """Quantiles of Student's t distribution from a table; the draws' standard deviation is 0.1."""
    found = bootstrap.difference_interval(np.array([0.1, 0.2, 0.3, np.nan]), 0.25, images)
    reach = t * 0.1 * (images / (images - 1)) ** 0.5
    assert (found.low, found.high) == (pytest.approx(0.25 - reach, abs=1e-3), pytest.approx(0.25 + reach, abs=1e-3))


def test_the_difference_in_a_single_image_has_no_interval() -> None:
    assert bootstrap.difference_interval(np.array([0.1, 0.2]), 0.1, 1) == Interval(None, None)
