"""Depthwise convolutions for training on a CPU, with gradients that avoid oneDNN's slow kernels."""

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_WIDEST = 3  # width of the kernels whose weights' gradient is fast


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
    if _slow_gradients(x, weight, stride) and not torch.compiler.is_compiling():  # which can't trace the other calls
        out: Tensor = _DepthwiseConvolution.apply(x, weight, bias, stride, padding)
        return out
    return F.conv2d(x, weight, bias, stride, padding, groups=len(weight))


def is_depthwise(layer: nn.Conv2d) -> bool:
    """Whether a layer is a convolution that `depthwise_conv2d` computes, apart from its padding."""
    one_each = layer.groups == layer.in_channels == layer.out_channels
    return (
        one_each and layer.dilation == (1, 1) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    )


def _slow_gradients(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> bool:
    return x.device.type == "cpu" and (weight.shape[-1] > _WIDEST or _slow_input_gradient(x, stride))


def _slow_input_gradient(x: Tensor, stride: tuple[int, int]) -> bool:
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
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        return (
            _input_gradient(gradient, x, weight, ctx.stride, ctx.padding) if of_x else None,
            _weight_gradient(gradient, x, weight, ctx.stride, ctx.padding) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            *(None, None),
        )


def _input_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    if not _slow_input_gradient(x, stride):
        return _backward(gradient, x, weight, stride, padding, of_input=True)
    # Only the input's shape and format count here.
    shape = torch.empty_like(x, dtype=torch.float32)
    return _backward(gradient.float(), shape, weight.float(), stride, padding, of_input=True).to(x.dtype)


def _weight_gradient(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """The weights' gradient by groups of at most three columns, each of a convolution of the columns it sees."""
    if weight.shape[-1] <= _WIDEST:
        return _backward(gradient, x, weight, stride, padding, of_input=False)
    rows, columns = padding
    parts = []
    for first, part in _split_columns(weight):
        width = (gradient.shape[-1] - 1) * stride[1] + part.shape[-1]  # columns that the part sees, from its first one
        left = columns - first  # padding; columns to cut off if negative
        seen = F.pad(x, [left, width - x.shape[-1] - left])
        parts.append(_backward(gradient, seen, part, stride, (rows, 0), of_input=False))
    return torch.cat(parts, dim=-1)


def _split_columns(weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The first column and the weights of each group of columns, of as equal widths as possible."""
    first = 0
    for part in weight.tensor_split(math.ceil(weight.shape[-1] / _WIDEST), dim=-1):
        yield first, part
        first += part.shape[-1]


def _backward(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], *, of_input: bool
) -> Tensor:
    """The gradient of the input or of the weights, by torch's own backward pass."""
    mask = [of_input, not of_input, False]
    gradients = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, stride, padding, (1, 1), False, (0, 0), len(weight), mask
    )
    result: Tensor = gradients[0 if of_input else 1]
    return result
