"""Depthwise convolutions for training on a CPU, with gradients that avoid oneDNN's slow kernels."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_MAX_FAST_WIDTH = 3  # of kernels whose weights' gradient is fast
_ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """A depthwise convolution, equal to `F.conv2d` with as many groups as channels, under autocast too.

    On a CPU, oneDNN has no fast kernel for the gradient of weights wider than 3, nor, in bf16, for the gradient of the
    input at a stride above 1. Both are computed by other calls instead (docs/performance.md); other gradients, and
    those of other devices, are `F.conv2d`'s.

    Args:
        x: [B, C, H, W].
        weight: [C, 1, h, w].
        bias: [C].
    """
    if torch.is_autocast_enabled("cpu") and x.device.type == "cpu":
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), bias if bias is None else bias.to(dtype)
    if _has_slow_gradients(x, weight, stride):
        out: Tensor = _DepthwiseConvolution.apply(x, weight, bias, stride, padding)
        return out
    return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))


def is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether `depthwise_conv2d` can compute a layer of numeric zero padding."""
    return layer.groups == layer.in_channels == layer.out_channels and layer.dilation == (1, 1)


def _has_slow_gradients(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> bool:
    is_wide = x.dtype in (torch.float32, torch.bfloat16) and weight.shape[-1] > _MAX_FAST_WIDTH
    return _ONEDNN and x.device.type == "cpu" and (is_wide or _has_slow_input_gradient(x, stride))


def _has_slow_input_gradient(x: Tensor, stride: tuple[int, int]) -> bool:
    return x.dtype == torch.bfloat16 and max(stride) > 1


class _DepthwiseConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        return (
            _input_gradient(grad, x, weight, ctx.stride, ctx.padding) if needs_x else None,
            _weight_gradient(grad, x, weight, ctx.stride, ctx.padding) if needs_weight else None,
            grad.sum((0, 2, 3)) if needs_bias else None,
            *(None, None),
        )


def _input_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    if not _has_slow_input_gradient(x, stride):
        return _backward(grad, x, weight, stride, padding, of_input=True)
    # Only the input's shape and format count here.
    shape = torch.empty_like(x, dtype=torch.float32)
    return _backward(grad.float(), shape, weight.float(), stride, padding, of_input=True).to(x.dtype)


def _weight_gradient(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The weights' gradient, by groups of at most three columns, each of a convolution of the columns it sees."""
    if weight.shape[-1] <= _MAX_FAST_WIDTH:
        return _backward(grad, x, weight, stride, padding, of_input=False)
    rows, columns = padding
    padded = F.pad(x, [columns, columns]) if columns else x
    parts = []
    for first, part in _split_columns(weight):
        width = (grad.shape[-1] - 1) * stride[1] + part.shape[-1]  # columns that the part sees
        seen = padded[..., first : first + width]
        parts.append(_backward(grad, seen, part, stride, (rows, 0), of_input=False))
    return torch.cat(parts, dim=-1)


def _split_columns(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first column and the weights of each group of columns, of as equal widths as possible."""
    first = 0
    for part in weight.tensor_split(math.ceil(weight.shape[-1] / _MAX_FAST_WIDTH), dim=-1):
        yield first, part
        first += part.shape[-1]


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], *, of_input: bool
) -> Tensor:
    """The gradient of the input or of the weights, by torch's own backward pass."""
    mask = [of_input, not of_input, False]
    gradients = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), mask
    )
    result: Tensor = gradients[0 if of_input else 1]
    return result
