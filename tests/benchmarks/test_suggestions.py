"""The benchmark of `fcos suggest`: what its card concludes from the draws."""

import math

import pytest

from benchmarks.suggestions import Draw, mean_gain, verdict


@pytest.mark.parametrize(
    ("gains", "start"),
    [
        ((0.04, 0.05, 0.06), "Suggested images gain over random ones: +5.0 ± 2.5 points"),
        ((-0.04, -0.05, -0.06), "Suggested images lose against random ones: -5.0 ± 2.5 points"),
        ((0.04, -0.05, 0.06), "No gain over random images is shown: +1.7 ± 14.5 points"),
    ],
)
def test_the_verdict_follows_the_paired_interval(gains: tuple[float, ...], start: str) -> None:
    draws = [Draw(0.3, 0.4 + gain, 0.4) for gain in gains]
    assert verdict(draws).startswith(start)


def test_one_draw_shows_nothing() -> None:
    assert mean_gain([Draw(0.3, 0.5, 0.25)]) == (0.25, math.inf)
    assert verdict([Draw(0.3, 0.5, 0.25)]).startswith("No gain")
