"""The benchmark of batches: it measures every size, and its card has a row for each detector."""

from dataclasses import replace

from benchmarks.prediction_batches import CASES, card, measure


def test_a_card_has_the_times_and_the_default() -> None:
    tiny = replace(CASES[0], side=64)
    times = measure(tiny, 1, (1, 2))
    assert list(times) == [1, 2]
    assert min(times.values()) > 0
    text = card({tiny: dict.fromkeys((1, 2, 4, 8), 0.0123)})
    assert "| tiny, 64×64 | 12.3 ms | 12.3 ms | 12.3 ms | 12.3 ms | 8 |" in text
