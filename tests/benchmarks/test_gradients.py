"""The measurement of training's own gradients: both sides compute the same, and the card says how long each took."""

from dataclasses import replace

import pytest
import torch

from benchmarks import gradients
from benchmarks.harness import Times


@pytest.mark.parametrize("layer", gradients.LAYERS, ids=lambda layer: layer.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_sides_have_the_same_gradients(
    layer: gradients.Depthwise | gradients.GroupNorm, dtype: torch.dtype
) -> None:
    sides = replace(layer, channels=64, height=13, width=17).prepare(dtype)
    for expected, actual in zip(sides["torch"](), sides["ours"](), strict=True):
        assert (actual - expected).norm() <= 1e-2 * expected.norm()


def test_card() -> None:
    measured = {"torch": Times(0.1, 0.09, 0.11), "ours": Times(0.02, 0.02, 0.025)}
    assert "| layer | 100 (90–110) | 20 (20–25) | 5.00 |" in gradients.card({"layer": measured}, 5)
