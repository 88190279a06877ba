"""Depthwise convolutions for training have torch's outputs and gradients."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos.fast import depthwise
from fcos.fast.depthwise import depthwise_conv2d, is_depthwise

# Height and width of the kernel, stride, padding.
GEOMETRIES = [
    ((3, 3), 1, 1),
    ((3, 3), 2, 0),
    ((5, 5), 1, 2),
    ((5, 5), 2, 0),
    ((5, 5), 3, 1),
    ((7, 7), 2, 3),
    ((1, 4), 1, 0),
    ((5, 1), 2, 2),
]


def tensors(kernel: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Input [2, 24, 19, 22], channels last, weights and bias, all with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 24, 19, 22), (24, 1, *kernel), (24,)]
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize(("geometry", "precision"), list(product(GEOMETRIES, ("float32", "bf16"))))
def test_outputs_and_gradients_are_those_of_torch(
    geometry: tuple[tuple[int, int], int, int], precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, stride, padding = geometry
    inputs = tensors(kernel)
    x, weight, bias = inputs
    expected_out = F.conv2d(x, weight, bias, stride, padding, groups=24)
    loss = torch.randn(expected_out.shape, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad((expected_out * loss).sum(), inputs)
    # The own gradients for every geometry, also where torch's are fast.
    monkeypatch.setattr(depthwise, "_slow_gradients", lambda *_: True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        out = depthwise_conv2d(x, weight, bias, stride=(stride, stride), padding=(padding, padding))
    assert out.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    actual = torch.autograd.grad((out * loss).sum(), inputs)
    tolerance = 1e-2 if precision == "bf16" else 1e-5
    for name, one, other in zip(("out", "x", "weight", "bias"), (out, *actual), (expected_out, *expected), strict=True):
        assert (one - other).norm() <= tolerance * other.norm(), name
        assert one.shape == other.shape


def test_only_slow_gradients_are_replaced() -> None:
    def node(kernel: tuple[int, int], stride: int, dtype: torch.dtype) -> str:
        x, weight, _ = (tensor.to(dtype) for tensor in tensors(kernel))
        out = depthwise_conv2d(x, weight, None, stride=(stride, stride), padding=(0, 0))
        return type(out.grad_fn).__name__

    torchs, own = "ConvolutionBackward0", "_DepthwiseConvolutionBackward"
    assert node((3, 3), 1, torch.float32) == node((3, 3), 2, torch.float32) == node((3, 3), 1, torch.bfloat16) == torchs
    assert node((5, 5), 1, torch.float32) == node((5, 5), 1, torch.bfloat16) == node((3, 3), 2, torch.bfloat16) == own


def test_gradients_that_nobody_needs_are_not_computed() -> None:
    x, weight, bias = tensors((5, 5))
    out = depthwise_conv2d(x.detach(), weight, bias.detach(), stride=(1, 1), padding=(2, 2))
    assert torch.autograd.grad(out.sum(), weight)[0].abs().sum() > 0
    out = depthwise_conv2d(x, weight.detach(), None, stride=(1, 1), padding=(2, 2))
    assert torch.autograd.grad(out.sum(), x)[0].abs().sum() > 0
    with torch.no_grad():
        assert not depthwise_conv2d(x, weight, bias, stride=(1, 1), padding=(2, 2)).requires_grad


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(8, 8, 5, 2, 2, groups=8), True),
        (nn.Conv2d(8, 8, (1, 7), groups=8), True),
        (nn.Conv2d(8, 8, 3, groups=4), False),
        (nn.Conv2d(8, 16, 3, groups=8), False),
        (nn.Conv2d(8, 8, 3, dilation=2, groups=8), False),
        (nn.Conv2d(8, 8, 3, padding="same", groups=8), False),
        (nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect", groups=8), False),
    ],
)
def test_what_a_depthwise_convolution_is(layer: nn.Conv2d, expected: bool) -> None:
    assert is_depthwise(layer) is expected
