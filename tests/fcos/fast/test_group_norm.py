"""Group norm for training has torch's output and gradients."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fcos.fast.group_norm import group_norm

SHAPES = [(2, 24, 9, 13), (3, 8, 1, 1), (3, 8, 8, 8), (1, 64, 16, 16), (0, 8, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("mean", "mean_gradient"), [(0.5, 0.0), (10.0, 6.0)])
def test_gradients_are_as_accurate_as_those_of_torch(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype, mean: float, mean_gradient: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(shape, generator=generator) + mean
    x = x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = (torch.rand(shape[1], generator=generator) + 0.5).requires_grad_()
    bias = torch.randn(shape[1], generator=generator).requires_grad_()
    grad = (2 * torch.randn(shape, generator=generator) + mean_gradient).to(dtype)
    inputs = (x, weight, bias)

    def with_gradients(norm: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
        out = norm(inputs[0], groups, *inputs[1:], 1e-5)
        return [out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))]

    exact = with_gradients(F.group_norm, *(tensor.detach().double().requires_grad_() for tensor in inputs))
    torchs = with_gradients(F.group_norm, *inputs)
    found = with_gradients(group_norm, *inputs)
    for name, actual, reference, expected in zip(("out", "x", "weight", "bias"), found, torchs, exact, strict=True):
        assert actual.dtype == reference.dtype
        rounding = (reference - expected).norm() + 1e-6 * expected.norm()
        assert (actual - expected).norm() <= 3 * rounding, name


def test_other_types_and_shapes_have_the_gradient_of_torch() -> None:
    def node(shape: tuple[int, ...], dtype: torch.dtype) -> str:
        x = torch.randn(shape, dtype=dtype, requires_grad=True)
        weights = torch.promote_types(dtype, torch.float32)
        out = group_norm(x, 2, torch.ones(8).to(weights), torch.zeros(8).to(weights), 1e-5)
        return type(out.grad_fn).__name__

    assert node((1, 8, 3, 3), torch.bfloat16) == node((1, 8, 3, 3), torch.float32) == "_GroupNormBackward"
    assert node((1, 8, 3, 3), torch.float64) == node((1, 8, 9), torch.float32) == "NativeGroupNormBackward0"


def test_the_compiler_traces_the_gradient() -> None:
    torch._dynamo.reset()
    inputs = (torch.randn(2, 8, 3, 3, requires_grad=True), torch.rand(8, requires_grad=True), torch.rand(8))

    def squares(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return group_norm(x, 2, weight, bias, 1e-5).square().sum()

    compiled = torch.compile(squares, backend="aot_eager", fullgraph=True)
    expected = torch.autograd.grad(squares(*inputs), inputs[:2])
    for actual, reference in zip(torch.autograd.grad(compiled(*inputs), inputs[:2]), expected, strict=True):
        torch.testing.assert_close(actual, reference)
