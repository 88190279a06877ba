"""The measurement of growth, at tiny sizes."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import scale, scaled_calls
from benchmarks.scale import Curve
from benchmarks.scaled_calls import Cost, Load


@pytest.mark.parametrize("name", scaled_calls.MEASURED)
def test_everything_is_measured(name: str) -> None:
    thing = scaled_calls.MEASURED[name]
    cost = scaled_calls.measure(
        thing, replace(thing.base, images=20 if name == "conversion" else 2, objects=2, pixels=64)
    )
    assert 0 < cost.seconds < 30
    assert 0 <= cost.memory < 1000


def test_exponents_are_those_of_the_upper_half() -> None:
    assert scale.exponent([1, 10, 100, 1000], [7.0, 7.0, 8.0, 800.0]) == pytest.approx(2)
    assert scale.exponent([1, 2, 4, 8, 16], [9.0, 9.0, 3.0, 6.0, 12.0]) == pytest.approx(1)
    assert scale.exponent([1, 2], [1.0, 0.0]) is None


def test_card_and_plot(tmp_path: Path) -> None:
    load = Load(images=1, objects=1, classes=1)
    quadratic = Curve("step", "images", load, [1, 10, 100], [Cost(n * n, math.sqrt(n) * 10) for n in (1, 10, 100)])
    small = Curve("step", "pixels", load, [320, 640], [Cost(1, 0), Cost(4, 1)])
    text = scale.card([quadratic, small])
    assert "| step | images | 1 · 10 · 100 | 1 · 100 · 1e+04 | **2.00** | 10 · 32 · 100 | 0.50 |" in text
    assert "| step | side of the input | 320 · 640 | 1 · 4 | 2.00 | 0 · 1 | – |" in text
    scale.plot([quadratic, small], tmp_path / "scale.png")
    assert (tmp_path / "scale.png").read_bytes().startswith(b"\x89PNG")
