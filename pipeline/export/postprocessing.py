"""Post-processing inside an ONNX graph: `fcos.postprocess` with hard suppression, as operators."""

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from onnxscript import OpBuilder

from fcos.config import ModelConfig

_FLOAT, _DOUBLE, _INT = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64


@dataclass(frozen=True, kw_only=True)
class Network:
    """What post-processing reads of the graph."""

    logits: Any  # float [B, P, K]
    ltrb: Any  # float [B, P, 4] in pixels of the resized image
    quality: Any | None  # float [B, P]
    locations: Any  # float [P, 2]
    level_sizes: Any  # number of locations of each level, int64 [levels]
    levels: int
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of `Postprocess`: inputs of the graph, except for the mode."""

    score_threshold: Any  # float [1]
    nms_iou_threshold: Any  # float [1]
    pre_nms_topk: Any  # int64 [1]
    max_detections: Any  # int64 [1]
    score_mode: str


def detect(op: OpBuilder, network: Network, resized: Any, stored: Any, settings: Settings) -> tuple[Any, ...]:
    """Adds the operators.

    Args:
        resized: height and width of the resized image without padding, int64 [2].
        stored: of the image that the graph received, int64 [2].

    Returns:
        Boxes [B, D, 4] x1, y1, x2, y2 in pixels of the stored image, scores [B, D] in descending order, labels int64
        [B, D] and the number of detections of each image, int64 [B]. D is at most `max_detections`; the places after
        an image's last detection are 0.
    """
    location, label = _candidates(op, network, settings)
    score = _scores(op, network, location, label, settings)
    boxes = _boxes(op, network, location, resized)
    corners = [op.Slice(boxes, [start], [start + 2], [2]) for start in (0, 2)]
    sides = op.ReduceMin(op.Sub(corners[1], corners[0]), [2], keepdims=0)
    score = op.Where(op.Greater(sides, 0.0), score, 0.0)  # 0: no candidate
    score = _suppress(op, boxes, score, label, network.num_classes, settings)
    count = op.Min(settings.max_detections, op.Shape(score, start=1, end=2))
    scores, index = op.TopK(score, count, axis=1, _outputs=2)
    found = op.Greater(scores, 0.0)
    labels = op.Where(found, op.GatherElements(label, index, axis=1), 0)
    boxes = op.Mul(op.GatherND(boxes, op.Unsqueeze(index, [2]), batch_dims=1), _ratios(op, stored, resized))
    boxes = op.Where(op.Unsqueeze(found, [2]), boxes, 0.0)
    return boxes, scores, labels, op.ReduceSum(op.Cast(found, to=_INT), [1], keepdims=0)


def pyramid(op: OpBuilder, padded: Any, config: ModelConfig) -> tuple[Any, Any]:
    """The number of locations of each level, int64 [L], and the locations, float [P, 2]: see `make_locations`.

    Args:
        padded: height and width of the network's input, int64 [2].
    """
    counts, locations = [], []
    for stride in config.strides:
        cells = op.Div(op.Add(padded, [stride - 1]), [stride])
        counts.append(op.ReduceProd(cells, keepdims=1))
        steps = op.Div(padded, cells) if config.locations == "torchvision" else op.Constant(value_ints=[stride] * 2)
        first = stride / 2 if config.locations == "center" else 0.0
        rows, columns = (_axis(op, op.Gather(cells, axis), op.Gather(steps, axis), first) for axis in (0, 1))
        grid = op.Concat(cells, [1], axis=0)
        x, y = op.Expand(op.Unsqueeze(columns, [0, 2]), grid), op.Expand(op.Unsqueeze(rows, [1, 2]), grid)
        locations.append(op.Reshape(op.Concat(x, y, axis=2), [-1, 2]))
    return op.Concat(*counts, axis=0), op.Concat(*locations, axis=0)


def _axis(op: OpBuilder, cells: Any, step: Any, first: float) -> Any:
    """The coordinates, float [cells], of the locations along an axis."""
    return op.Add(op.Cast(op.Mul(op.Range(0, cells, 1), step), to=_FLOAT), first)


def _candidates(op: OpBuilder, network: Network, settings: Settings) -> tuple[Any, Any]:
    """The locations and labels, int64 [B, N] each, of the highest scores of each level, N in all."""
    number = network.levels
    sizes = network.level_sizes
    levels = _split(op, op.Sigmoid(network.logits), sizes, number)
    qualities = [None] * number if network.quality is None else _split(op, op.Sigmoid(network.quality), sizes, number)
    chosen = [_best(op, probability, quality, settings) for probability, quality in zip(levels, qualities, strict=True)]
    starts = op.Sub(op.CumSum(sizes, 0), sizes)
    locations = [
        op.Add(op.Div(index, [network.num_classes]), op.Gather(starts, [level])) for level, index in enumerate(chosen)
    ]
    labels = [op.Mod(index, [network.num_classes]) for index in chosen]
    return op.Concat(*locations, axis=1), op.Concat(*labels, axis=1)


def _split(op: OpBuilder, values: Any, sizes: Any, number: int) -> list[Any]:
    """Values [B, P, …] of each level."""
    parts = op.Split(values, sizes, axis=1, _outputs=number)
    return [parts] if number == 1 else list(parts)


def _best(op: OpBuilder, probability: Any, quality: Any | None, settings: Settings) -> Any:
    """Indices [B, n] of a level's highest scores above the threshold in [B, P·K], then of others."""
    score = probability
    if quality is not None:
        score = op.Sqrt(op.Mul(probability, op.Unsqueeze(quality, [2])))
    compared = probability if settings.score_mode == "class" else score
    score = op.Where(op.Greater(compared, settings.score_threshold), score, 0.0)
    score = op.Reshape(score, [0, -1])
    count = op.Min(settings.pre_nms_topk, op.Shape(score, start=1, end=2))
    return op.TopK(score, count, axis=1, _outputs=2)[1]


def _scores(op: OpBuilder, network: Network, location: Any, label: Any, settings: Settings) -> Any:
    """The scores [B, N] of candidates, computed in float64 as by `Postprocess`; 0 below the threshold."""
    index = op.Add(op.Mul(location, [network.num_classes]), label)
    logit = op.GatherElements(op.Reshape(network.logits, [0, -1]), index, axis=1)
    score = probability = op.Sigmoid(op.Cast(logit, to=_DOUBLE))
    if network.quality is not None:
        quality = op.Sigmoid(op.Cast(op.GatherElements(network.quality, location, axis=1), to=_DOUBLE))
        score = op.Sqrt(op.Mul(probability, quality))
    compared = probability if settings.score_mode == "class" else score
    above = op.Greater(compared, op.Cast(settings.score_threshold, to=_DOUBLE))
    return op.Where(above, op.Cast(score, to=_FLOAT), 0.0)


def _boxes(op: OpBuilder, network: Network, location: Any, resized: Any) -> Any:
    """Boxes [B, N, 4] of candidates in pixels of the resized image, clipped to it."""
    ltrb = op.GatherND(network.ltrb, op.Unsqueeze(location, [2]), batch_dims=1)
    xy = op.Gather(network.locations, location, axis=0)
    low, high = (op.Slice(ltrb, [start], [start + 2], [2]) for start in (0, 2))
    boxes = op.Concat(op.Sub(xy, low), op.Add(xy, high), axis=2)
    limits = op.Cast(op.Gather(resized, [1, 0, 1, 0]), to=_FLOAT)
    return op.Min(op.Max(boxes, 0.0), limits)


def _suppress(op: OpBuilder, boxes: Any, score: Any, label: Any, num_classes: int, settings: Settings) -> Any:
    """The scores [B, N], 0 for candidates that a better one of their class suppresses."""
    classes = op.Unsqueeze(op.Range(0, num_classes, 1), [1])
    is_class = op.Equal(op.Unsqueeze(label, [1]), classes)
    scores = op.Where(is_class, op.Unsqueeze(score, [1]), 0.0)
    kept = op.NonMaxSuppression(
        boxes, scores, settings.max_detections, settings.nms_iou_threshold, 0.0, center_point_box=0
    )
    kept = op.Gather(kept, [0, 2], axis=1)  # image and candidate
    zeros = op.Mul(score, 0.0)
    return op.ScatterND(zeros, kept, op.GatherND(score, kept))


def _ratios(op: OpBuilder, stored: Any, resized: Any) -> Any:
    """The factors, float [4], from pixels of the resized image to those of the stored one."""
    ratios = op.Div(op.Cast(stored, to=_DOUBLE), op.Cast(resized, to=_DOUBLE))
    return op.Cast(op.Gather(ratios, [1, 0, 1, 0]), to=_FLOAT)
