"""Resizing inside an ONNX graph, to exactly the pixels that `F.interpolate` computes with antialiasing from uint8.

ONNX's own Resize rounds its weights differently, which changes about one pixel in fifty by one level of gray, and
thereby scores by more than rounding does. Like torch, the graph resizes first along the width, then along the height,
with 16-bit integer weights, and rounds to 8 bits after each.
"""

from typing import Any

import onnx_ir as ir
from onnxscript import OpBuilder

_WEIGHT_BITS = 15  # torch scales the weights of each axis by the largest power of two with which they fit
_MAX_PRECISION = 22


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
    # The axis that is resized is the second one, so that a weight applies to many consecutive numbers.
    columns = op.Reshape(op.Transpose(images, perm=[0, 2, 1, 3]), op.Concat([0], width, [-1], axis=0))
    columns = _resize_axis(op, columns, width, new_width, "columns")
    columns = op.Reshape(columns, op.Concat([0], new_width, height, [3], axis=0))
    rows = op.Reshape(op.Transpose(columns, perm=[0, 2, 1, 3]), op.Concat([0], height, [-1], axis=0))
    rows = _resize_axis(op, rows, height, new_height, "rows")
    return op.Reshape(rows, op.Concat([0], new_height, new_width, [3], axis=0))


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
    first, weights, precision = _weights(op, length, new_length)
    last = op.Sub(length, [1])

    def add_tap(op: OpBuilder, tap: Any, condition: Any, total: Any) -> tuple[Any, Any]:
        """Adds one of the pixels that a result is computed from; those beyond the image have the weight 0."""
        source = op.Cast(op.Gather(pixels, op.Min(op.Add(first, tap), last), axis=1), to=ir.DataType.INT32)
        weight = op.Unsqueeze(op.Gather(weights, tap, axis=0), [1])
        return op.Identity(condition), op.Add(total, op.Mul(source, weight))

    rounding = op.Cast(_power_of_two(op, op.Sub(precision, [1.0])), to=ir.DataType.INT32)
    shape = op.Concat(op.Shape(pixels, start=0, end=1), new_length, op.Shape(pixels, start=2, end=3), axis=0)
    inputs = [
        ir.val("tap", ir.DataType.INT64, []),
        ir.val("more", ir.DataType.BOOL, []),
        ir.val("sum", ir.DataType.INT32),
    ]
    outputs = [ir.val("continue", ir.DataType.BOOL, []), ir.val("total", ir.DataType.INT32)]
    body = _subgraph(op, f"{name}_tap", add_tap, inputs, outputs)
    total = op.Loop(op.Shape(weights, start=0, end=1), None, op.Expand(rounding, shape), body=body)
    scale = op.Cast(_power_of_two(op, precision), to=ir.DataType.INT32)
    return op.Cast(op.Min(op.Div(total, scale), 255), to=ir.DataType.UINT8)


def _weights(op: OpBuilder, length: Any, new_length: Any) -> tuple[Any, Any, Any]:
    """The pixels that each result is a mean of, along an axis.

    Returns:
        The index of the first pixel, int64 [M]; the weights of that pixel and the next ones, int32 [taps, M]; and the
        power of two that the weights add up to, float64 [1].
    """
    size, new_size = op.Cast(length, to=ir.DataType.DOUBLE), op.Cast(new_length, to=ir.DataType.DOUBLE)
    scale = op.Div(size, new_size)
    reach = op.Max(scale, [1.0])
    index = op.Range(0.0, op.Squeeze(new_size), 1.0)
    center = op.Mul(scale, op.Add(index, [0.5]))
    first = op.Max(op.Floor(op.Add(op.Sub(center, reach), [0.5])), [0.0])
    end = op.Min(op.Floor(op.Add(op.Add(center, reach), [0.5])), size)
    taps = op.Add(op.Mul(op.Ceil(reach), [2.0]), [1.0])
    tap = op.Unsqueeze(op.Range(0.0, op.Squeeze(taps), 1.0), [1])
    position = op.Add(tap, first)
    distance = op.Abs(op.Mul(op.Add(op.Sub(position, center), [0.5]), op.Div([1.0], reach)))
    weight = op.Max(op.Sub([1.0], distance), [0.0])
    weight = op.Where(op.Less(position, end), weight, [0.0])
    weight = op.Div(weight, op.ReduceSum(weight, [0], keepdims=1))
    precision = _precision(op, op.ReduceMax(weight, keepdims=0))
    scaled = op.Floor(op.Add(op.Mul(weight, _power_of_two(op, precision)), [0.5]))
    return op.Cast(first, to=ir.DataType.INT64), op.Cast(scaled, to=ir.DataType.INT32), precision


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
