"""The distribution focal loss: by hand, at the ends, and its minimum."""

import math

import pytest
import torch

from fcos.losses import distribution_focal_loss


def test_by_hand() -> None:
    """Probabilities 0.1, 0.2, 0.3, 0.4 of 0 to 3 strides, for distances of 1.25, 2, 0 and 0.5."""
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().repeat(1, 4, 1) + 5  # a constant changes nothing
    expected = [0.75 * math.log(0.2) + 0.25 * math.log(0.3), math.log(0.3), math.log(0.1), math.log(0.1 * 0.2) / 2]
    loss = distribution_focal_loss(logits, torch.tensor([[1.25, 2.0, 0.0, 0.5]]))
    assert loss.tolist() == pytest.approx([-sum(expected) / 4])


def test_distances_beyond_the_largest_are_the_largest() -> None:
    logits = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    losses = [distribution_focal_loss(logits, torch.full((4,), distance)) for distance in (7.0, 7.5, 1e6)]
    assert losses[0] == losses[1] == losses[2]
    assert losses[0].item() == pytest.approx(-logits.log_softmax(dim=-1)[:, 7].mean().item(), abs=0.01)


def test_its_minimum_has_the_distance_as_mean() -> None:
    """Gradients vanish where the two bins have the shares of the distance (GFL, equation 6)."""
    shares = torch.tensor([1e-9, 0.7, 0.3, 1e-9]).log().repeat(4, 1).requires_grad_()
    distribution_focal_loss(shares, torch.full((4,), 1.3)).backward()
    assert shares.grad is not None
    assert shares.grad.abs().max() < 1e-6
    assert (shares.softmax(dim=-1) * torch.arange(4.0)).sum(dim=-1).tolist() == pytest.approx([1.3] * 4)
