"""Resizing inside an ONNX graph, to exactly the pixels that `F.interpolate` computes with antialiasing from uint8.

ONNX's own Resize rounds its weights differently, which changes about one pixel in fifty by one level of gray, and
thereby scores by more than rounding does. Like torch, the graph resizes first along the width, then along the height,
with 16-bit integer weights, and rounds to 8 bits after each.
"""

from typing import Any

import numpy as np
import onnx_ir as ir
from onnxscript import OpBuilder

_WEIGHT_BITS = 15  # torch scales the weights of each axis by the largest power of two with which they fit
_MAX_PRECISION = 22
_BLOCK = 8  # results computed together along an axis
_COLUMNS, _ROWS = "columns", "rows"


def resized_size(op: OpBuilder, stored: Any, size: Any, *, letterbox: bool) -> Any:
    """Height and width of the resized image, int64 [2]: `InputSize.resized` as operators.

    Args:
        op: builder of the graph.
        stored: height and width of the image, float64 [2].
        size: `InputSize.size`, float64 [2].
    """
    if letterbox:
        scale = op.ReduceMin(op.Div(size, stored), keepdims=1)
    else:
        sides = op.Concat(op.ReduceMin(stored, keepdims=1), op.ReduceMax(stored, keepdims=1), axis=0)
        scale = op.ReduceMin(op.Div(size, sides), keepdims=1)
    return op.Cast(op.Max(op.Round(op.Mul(stored, scale)), [1.0]), to=ir.DataType.INT64)


def resize(op: OpBuilder, images: Any, stored: Any, resized: Any) -> Any:
    """Resizes a batch uint8 [B, H, W, 3].

    Args:
        stored, resized: height and width before and after, int64 [2].
    """
    height, width = (_element(op, stored, axis) for axis in (0, 1))
    new_height, new_width = (_element(op, resized, axis) for axis in (0, 1))
    batch = op.Shape(images, start=0, end=1)
    lines = op.Reshape(images, op.Concat(op.Mul(batch, height), width, [3], axis=0))
    lines = _resize_axis(op, lines, width, new_width, _COLUMNS)
    lines = op.Reshape(lines, op.Concat(batch, height, [-1], axis=0))
    lines = _resize_axis(op, lines, height, new_height, _ROWS)
    return op.Reshape(lines, op.Concat(batch, new_height, new_width, [3], axis=0))


def _resize_axis(op: OpBuilder, pixels: Any, length: Any, new_length: Any, name: str) -> Any:
    """Resizes the second axis of uint8 [B, length, N], unless its length stays."""

    def keep(op: OpBuilder) -> Any:
        return op.Identity(pixels)

    def interpolate(op: OpBuilder) -> Any:
        return _interpolate(op, pixels, length, new_length, name)

    branches = {
        branch: _subgraph(op, f"{name}_{function.__name__}", function, [], [ir.val("axis", ir.DataType.UINT8)])
        for branch, function in {"then_branch": keep, "else_branch": interpolate}.items()
    }
    return op.If(op.Squeeze(op.Equal(length, new_length)), **branches)


def _interpolate(op: OpBuilder, pixels: Any, length: Any, new_length: Any, name: str) -> Any:
    """Computes blocks of results as products of matrices, each from the few pixels that the block depends on."""
    first, weights, precision = _weights(op, length, new_length)
    end = op.Add(first, op.Shape(weights, start=2, end=3))
    factors = _for_channels(op, weights) if name == _COLUMNS else weights
    high, low = (
        op.Cast(function(factors, [256]), to=ir.DataType.UINT8) for function in (op.Div, op.Mod)
    )  # MatMulInteger takes 8 bits
    half = op.Cast(_power_of_two(op, op.Sub(precision, [1.0])), to=ir.DataType.INT32)
    shift = op.Cast(precision, to=ir.DataType.UINT32)
    largest = op.Constant(value=ir.tensor(255, ir.DataType.UINT32))

    def resize_block(op: OpBuilder, first: Any, end: Any, high: Any, low: Any) -> Any:
        block = op.Slice(pixels, first, end, [1])
        if name == _COLUMNS:
            block = op.Reshape(block, [0, -1])
            sums = [op.MatMulInteger(block, factors) for factors in (high, low)]
        else:
            sums = [op.MatMulInteger(factors, block) for factors in (high, low)]
        total = op.Add(op.Add(op.Mul(sums[0], 256), sums[1]), half)
        means = op.BitShift(op.Cast(total, to=ir.DataType.UINT32), shift, direction="RIGHT")
        return op.Cast(op.Min(means, largest), to=ir.DataType.UINT8)

    inputs = [
        *(ir.val(index, ir.DataType.INT64, [1]) for index in ("first", "end")),
        *(ir.val(part, ir.DataType.UINT8) for part in ("high", "low")),
    ]
    body = _subgraph(op, f"{name}_block", resize_block, inputs, [ir.val("resized", ir.DataType.UINT8)])
    results = op.Scan(first, end, high, low, body=body, num_scan_inputs=4)
    shape = op.Concat(op.Shape(results, start=0, end=2), [_BLOCK], op.Shape(pixels, start=2, end=3), axis=0)
    results = op.Transpose(op.Reshape(results, shape), perm=[1, 0, 2, 3])
    results = op.Reshape(results, op.Concat([0, -1], op.Shape(pixels, start=2, end=3), axis=0))
    return op.Slice(results, [0], new_length, [1])


def _for_channels(op: OpBuilder, weights: Any) -> Any:
    """Weights int32 [blocks, _BLOCK, pixels] as [blocks, pixels·3, _BLOCK·3], for channels side by side."""
    by_pixel = op.Unsqueeze(op.Transpose(weights, perm=[0, 2, 1]), [2, 4])
    same_channel = op.Constant(value=ir.tensor(np.eye(3, dtype=np.int32)[:, None]))
    shape = op.Concat([0], op.Mul(op.Shape(weights, start=2, end=3), [3]), [3 * _BLOCK], axis=0)
    return op.Reshape(op.Mul(by_pixel, same_channel), shape)


def _weights(op: OpBuilder, length: Any, new_length: Any) -> tuple[Any, Any, Any]:
    """The pixels that each result is a mean of, along an axis.

    Returns:
        The index of the first pixel of each block, int64 [blocks, 1]; the weights, in each of its results, of that
        pixel and the next ones, int32 [blocks, _BLOCK, pixels]; and the exponent of the power of two that the weights
        of a result add up to, float64 [1]. Results beyond the last one repeat it.
    """
    size, new_size = op.Cast(length, to=ir.DataType.DOUBLE), op.Cast(new_length, to=ir.DataType.DOUBLE)
    scale = op.Div(size, new_size)
    reach = op.Max(scale, [1.0])
    blocks = op.Ceil(op.Div(new_size, [float(_BLOCK)]))
    index = op.Range(0.0, op.Squeeze(op.Mul(blocks, [float(_BLOCK)])), 1.0)
    index = op.Reshape(op.Min(index, op.Sub(new_size, [1.0])), [-1, _BLOCK, 1])
    center = op.Mul(scale, op.Add(index, [0.5]))
    first = op.Max(op.Floor(op.Add(op.Sub(center, reach), [0.5])), [0.0])
    end = op.Min(op.Floor(op.Add(op.Add(center, reach), [0.5])), size)
    number = op.Min(op.Ceil(op.Add(op.Mul(scale, [float(_BLOCK - 1)]), op.Add(op.Mul(reach, [2.0]), [2.0]))), size)
    start = op.Min(op.Slice(first, [0], [1], [1]), op.Sub(size, number))
    position = op.Add(op.Range(0.0, op.Squeeze(number), 1.0), start)
    distance = op.Abs(op.Mul(op.Add(op.Sub(position, center), [0.5]), op.Div([1.0], reach)))
    weight = op.Max(op.Sub([1.0], distance), [0.0])
    inside = op.And(op.GreaterOrEqual(position, first), op.Less(position, end))
    weight = op.Where(inside, weight, [0.0])
    weight = op.Div(weight, op.ReduceSum(weight, [2], keepdims=1))
    precision = _precision(op, op.ReduceMax(weight, keepdims=0))
    scaled = op.Floor(op.Add(op.Mul(weight, _power_of_two(op, precision)), [0.5]))
    start = op.Cast(op.Squeeze(start, [2]), to=ir.DataType.INT64)
    return start, op.Cast(scaled, to=ir.DataType.INT32), precision


def _precision(op: OpBuilder, largest: Any) -> Any:
    """The number of fractional bits with which the largest weight, float64 [], fits into 16 bits: float64 [1]."""
    candidates = [2.0 ** (bits + 1) for bits in range(_MAX_PRECISION)]
    scaled = op.Floor(op.Add(op.Mul(candidates, largest), [0.5]))
    fits = op.Less(scaled, [2.0**_WEIGHT_BITS])
    return op.ReduceSum(op.Cast(fits, to=ir.DataType.DOUBLE), keepdims=1)


def _element(op: OpBuilder, vector: Any, index: int) -> Any:
    """An element of a vector, as a vector of one element."""
    return op.Gather(vector, [index])


def _power_of_two(op: OpBuilder, exponent: Any) -> Any:
    return op.Pow(op.Constant(value=ir.tensor([2.0], ir.DataType.DOUBLE)), exponent)


def _subgraph(op: OpBuilder, name: str, function: Any, inputs: list[Any], outputs: list[Any]) -> Any:
    """The body of a control-flow operator; its values have names that no other graph uses."""
    for value in (*inputs, *outputs):
        value.name = f"{name}.{value.name}"
    op.builder.push_module(name)
    try:
        return op.builder.subgraph(function, inputs, outputs, name=name)
    finally:
        op.builder.pop_module()
