"""The measurement of precisions: what it computes, and its card."""

from dataclasses import replace

import pytest
import torch

from benchmarks import precision
from benchmarks.harness import Times
from pipeline import recipes


@pytest.mark.parametrize("layer", precision.CONVOLUTIONS, ids=lambda layer: layer.name)
def test_all_precisions_have_about_the_same_gradients(layer: precision.Convolution) -> None:
    small = replace(layer, side=4)
    expected, *others = (small.prepare(name)() for name in ("float32", "bf16"))
    for found in others:
        for gradient, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=0.05, atol=0.2)


def test_a_training_step_runs_in_both_precisions() -> None:
    model = replace(recipes.defaults().model, channels=16, tower_depth=1)
    losses = [precision.training_step(model, (1, 64, 64), name)() for name in ("float32", "bf16")]
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.02)


def test_card() -> None:
    measured = {"float32": Times(0.1, 0.09, 0.11), "bf16": Times(0.2, 0.2, 0.25)}
    text = precision.card({"3×3": measured}, 5)
    assert "| 3×3 | 100 (90–110) | 200 (200–250) |  | 0.50 |" in text
