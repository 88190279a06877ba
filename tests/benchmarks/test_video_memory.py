"""The card of the memory of videos: the difference of the peaks, and the speed without the start."""

import pytest

from benchmarks.video_memory import Run, card


@pytest.mark.parametrize(("peak", "verdict"), [(836.0, "+4.5 %; goal at most +5 %: met"), (848.0, "**missed**")])
def test_card(peak: float, verdict: str) -> None:
    text = card([Run(500, 800.0, 20.0), Run(5_000, peak, 110.0)])
    assert verdict in text
    assert "Speed without the start: 50 frames/s." in text
