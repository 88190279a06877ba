"""Group norm for training has torch's output and gradients."""

import pytest
import torch
import torch.nn.functional as F

from fcos.fast.group_norm import group_norm


@pytest.mark.parametrize("shape", [(2, 24, 9, 13), (3, 8, 8, 8), (1, 64, 16, 16)])
@pytest.mark.parametrize("groups", [1, 4, 8])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_output_and_gradients_are_those_of_torch(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype, tolerance: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.randn(shape, generator=generator) + 1
    x = x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = (torch.rand(shape[1], generator=generator) + 0.5).requires_grad_()
    bias = torch.randn(shape[1], generator=generator).requires_grad_()
    loss = torch.randn(shape, generator=generator)
    inputs = (x, weight, bias)

    def with_gradients(out: torch.Tensor) -> list[torch.Tensor]:
        return [out, *torch.autograd.grad((out * loss).sum(), inputs)]

    exact = with_gradients(F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-5))
    actual = with_gradients(group_norm(x, groups, weight, bias, 1e-5))
    for name, one, other in zip(("out", "x", "weight", "bias"), actual, exact, strict=True):
        assert (one - other).norm() <= tolerance * other.norm(), name
    assert [one.dtype for one in actual] == [dtype, dtype, torch.float32, torch.float32]


def test_other_types_and_small_maps_have_the_gradient_of_torch() -> None:
    def node(side: int, dtype: torch.dtype) -> str:
        x = torch.randn(1, 8, side, side, dtype=dtype, requires_grad=True)
        weights = torch.promote_types(dtype, torch.float32)
        return type(group_norm(x, 2, torch.ones(8).to(weights), torch.zeros(8).to(weights), 1e-5).grad_fn).__name__

    assert node(8, torch.bfloat16) == node(8, torch.float32) == "_GroupNormBackward"
    assert node(7, torch.bfloat16) == node(8, torch.float64) == "NativeGroupNormBackward0"
