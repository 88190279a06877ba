"""Depthwise convolutions for training have torch's outputs and gradients."""

from itertools import product
from typing import NoReturn

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcos.fast import depthwise
from fcos.fast.depthwise import depthwise_conv2d, is_depthwise

# Kernel, stride and padding, each as rows and columns, and the size of the input.
GEOMETRIES = [
    ((3, 3), (1, 1), (1, 1), (19, 22)),
    ((3, 3), (2, 2), (0, 0), (19, 22)),
    ((5, 5), (1, 1), (2, 2), (19, 22)),
    ((5, 5), (2, 2), (0, 0), (19, 22)),
    ((5, 5), (1, 2), (2, 1), (19, 22)),
    ((5, 5), (3, 1), (0, 2), (18, 7)),
    ((7, 7), (2, 2), (3, 3), (9, 13)),
    ((7, 7), (1, 1), (3, 3), (2, 1)),  # parts of the kernel see padding only
    ((1, 4), (1, 1), (0, 0), (3, 8)),
    ((5, 1), (2, 2), (2, 2), (8, 8)),
]


def tensors(
    kernel: tuple[int, int], size: tuple[int, int] = (9, 11), *, images: int = 2, channels_last: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Input [B, 24, H, W], weights and bias, all with gradients."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(images, 24, *size), (24, 1, *kernel), (24,)]
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


@pytest.fixture
def always_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of this module for every geometry, also where torch's are fast."""
    monkeypatch.setattr(depthwise, "_has_slow_gradients", lambda *_: True)


@pytest.mark.usefixtures("always_replaced")
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("precision", "channels_last"), [*product(("float32", "bf16"), (True, False))])
def test_outputs_and_gradients_are_those_of_torch(
    geometry: tuple[tuple[int, int], ...], precision: str, channels_last: bool
) -> None:
    kernel, stride, padding, size = geometry
    inputs = tensors(kernel, size, channels_last=channels_last)
    x, weight, bias = inputs
    reference = F.conv2d(x, weight, bias, stride, padding, groups=24)
    factors = torch.randn(reference.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((reference * factors).sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        out = depthwise_conv2d(x, weight, bias, stride=stride, padding=padding)
    assert out.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    found = torch.autograd.grad((out * factors).sum(), inputs)
    tolerance = 1e-2 if precision == "bf16" else 1e-5
    names = ("out", "x", "weight", "bias")
    for name, actual, expected in zip(names, (out, *found), (reference, *gradients), strict=True):
        assert (actual - expected).norm() <= tolerance * expected.norm(), name
        assert actual.shape == expected.shape


@pytest.mark.usefixtures("always_replaced")
def test_no_images() -> None:
    x, weight, bias = tensors((5, 5), images=0)
    out = depthwise_conv2d(x, weight, bias, stride=(1, 1), padding=(2, 2))
    grad_x, grad_weight, grad_bias = torch.autograd.grad(out.sum(), (x, weight, bias))
    assert grad_x.shape == x.shape
    assert not grad_weight.any()
    assert not grad_bias.any()


def test_only_slow_gradients_are_replaced() -> None:
    def node(kernel: tuple[int, int], stride: int, dtype: torch.dtype) -> str:
        x, weight, _ = (tensor.to(dtype) for tensor in tensors(kernel))
        out = depthwise_conv2d(x, weight, None, stride=(stride, stride), padding=(0, 0))
        return type(out.grad_fn).__name__

    fast = [((3, 3), 1, torch.float32), ((3, 3), 2, torch.float32), ((3, 3), 1, torch.bfloat16)]
    assert {node(*case) for case in [*fast, ((5, 5), 1, torch.float64)]} == {"ConvolutionBackward0"}
    slow = [((5, 5), 1, torch.float32), ((5, 5), 1, torch.bfloat16), ((3, 3), 2, torch.bfloat16)]
    assert {node(*case) for case in slow} == {"_DepthwiseConvolutionBackward"}


@pytest.mark.parametrize("name", ["_input_gradient", "_weight_gradient"])
def test_unneeded_gradients_are_not_computed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        pytest.fail("nobody needs this gradient")

    monkeypatch.setattr(depthwise, name, fail)
    x, weight, bias = tensors((5, 5))
    if name == "_input_gradient":
        x = x.detach()
    else:
        weight = weight.detach()
    out = depthwise_conv2d(x, weight, bias, stride=(1, 1), padding=(2, 2))
    out.sum().backward()
    assert bias.grad is not None
    assert (x.grad is None) == (name == "_input_gradient")
    assert (weight.grad is None) == (name == "_weight_gradient")


def test_the_compiler_traces_the_gradients() -> None:
    torch._dynamo.reset()
    inputs = tensors((5, 5))

    def squares(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return depthwise_conv2d(x, weight, bias, stride=(2, 2), padding=(2, 2)).square().sum()

    compiled = torch.compile(squares, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(squares(*inputs), inputs)
    for actual, reference in zip(torch.autograd.grad(compiled(*inputs), inputs), expected, strict=True):
        torch.testing.assert_close(actual, reference)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(8, 8, 5, 2, 2, groups=8), True),
        (nn.Conv2d(8, 8, (1, 7), groups=8), True),
        (nn.Conv2d(8, 8, 3, groups=4), False),
        (nn.Conv2d(8, 16, 3, groups=8), False),
        (nn.Conv2d(8, 8, 3, dilation=2, groups=8), False),
    ],
)
def test_what_a_depthwise_convolution_is(layer: nn.Conv2d, expected: bool) -> None:
    assert is_depthwise(layer) is expected
