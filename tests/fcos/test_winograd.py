"""Winograd's convolution against torch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fcos import winograd

SHAPES = [[(2, 8, 12)], [(1, 1, 1)], [(3, 7, 5), (3, 4, 3), (3, 2, 2), (3, 1, 1)]]


def made(shapes: list[tuple[int, int, int]], dtype: torch.dtype, layout: torch.memory_format) -> list[Tensor]:
    torch.manual_seed(0)
    levels = [torch.randn(b, 6, h, w, dtype=dtype).to(memory_format=layout).requires_grad_() for b, h, w in shapes]
    weight = torch.randn(5, 6, 3, 3, dtype=dtype, requires_grad=True)
    return [weight, torch.randn(5, dtype=dtype, requires_grad=True), *levels]


def both(inputs: list[Tensor], *, bias: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of Winograd's and of torch's."""
    weight, offset, *levels = inputs
    wanted = [one for one in ([weight, offset, *levels] if bias else [weight, *levels]) if one.requires_grad]
    found = []
    for outputs in (
        winograd.convolve(levels, weight, offset if bias else None),
        [F.conv2d(level, weight, offset if bias else None, padding=1) for level in levels],
    ):
        slopes = [torch.cos(torch.arange(one.numel(), dtype=one.dtype)).view_as(one) for one in outputs]
        found.append([*outputs, *torch.autograd.grad(outputs, wanted, slopes)])
    return found[0], found[1]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shapes", SHAPES)
def test_outputs_and_gradients(shapes: list[tuple[int, int, int]], bias: bool, layout: torch.memory_format) -> None:
    """In float64: the algorithm is exact, only its rounding differs."""
    ours, torchs = both(made(shapes, torch.float64, layout), bias=bias)
    for mine, other in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


def test_groups_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = made(SHAPES[2], torch.float64, torch.channels_last)
    whole, _ = both(inputs)
    monkeypatch.setattr(winograd, "_CHUNK", 1)
    parts, torchs = both(inputs)
    for one, other, third in zip(whole, parts, torchs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(other, third, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("still", [0, 2])
def test_what_does_not_learn_gets_no_gradient(still: int) -> None:
    inputs = made([(2, 8, 12)], torch.float64, torch.channels_last)
    inputs[still].requires_grad_(False)
    for mine, other in zip(*both(inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


def test_rounding_in_float32() -> None:
    """Against float64: some times a plain convolution's rounding, and far from that of 16 bits."""
    torch.manual_seed(0)
    level, weight = torch.randn(1, 256, 16, 16), torch.randn(256, 256, 3, 3) / 48
    exact = F.conv2d(level.double(), weight.double(), padding=1)
    (found,) = winograd.convolve([level], weight, None)
    assert (found - exact).abs().max() < 1e-4 * exact.std()


def test_same_bytes_again() -> None:
    inputs = made(SHAPES[2], torch.float32, torch.channels_last)
    assert all(torch.equal(*pair) for pair in zip(both(inputs)[0], both(inputs)[0], strict=True))


def test_relu_in_place_may_follow() -> None:
    inputs = made([(2, 8, 12)], torch.float64, torch.channels_last)
    (mine,), (other,) = winograd.convolve(inputs[2:], *inputs[:2]), [F.conv2d(inputs[2], *inputs[:2], padding=1)]
    slopes = [torch.autograd.grad(one.relu_().square().sum(), inputs) for one in (mine, other)]
    for one, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(one, theirs)


def test_tiles_are_counted() -> None:
    assert winograd.tiles([torch.zeros(2, 1, 8, 12), torch.zeros(2, 1, 5, 1)]) == 2 * (2 * 3 + 2 * 1)
