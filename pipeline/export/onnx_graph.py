"""The complete ONNX model: from images as they are stored to detections."""

from dataclasses import asdict
from typing import Any

import onnx_ir as ir
import onnxscript
from onnxscript import OpBuilder

from fcos.config import InputSize
from fcos.detector import Detector
from fcos.postprocess import Postprocess
from pipeline.export import postprocessing, resizing
from pipeline.export.network import MULTIPLE, OPSET, output_names
from pipeline.export.postprocessing import Network, Settings

_IR_VERSION = 10
_FLOAT, _DOUBLE, _INT = ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.INT64
_IMAGES = "RGB pixels [batch, height, width, 3]"


def assemble(
    network: ir.Model, detector: Detector, num_classes: int, input_size: InputSize, postprocess: Postprocess | None
) -> ir.Model:
    """Joins resizing, normalization, the network and post-processing to one model.

    Args:
        network: of `to_onnx`, which becomes a part of the result.
        postprocess: the default settings; None: the model ends with the network's outputs.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": OPSET}, name="detector")
    builder = onnxscript.GraphBuilder(graph)
    images = builder.input("images", ir.DataType.UINT8, ["batch", "height", "width", 3])
    size = _setting(builder, "size", input_size.size, _INT)
    builder.push_module("prepare")
    op = builder.op
    stored = op.Shape(images, start=1, end=3)
    resized = resizing.resized_size(
        op, op.Cast(stored, to=_DOUBLE), op.Cast(size, to=_DOUBLE), letterbox=input_size.letterbox
    )
    pixels = resizing.resize(op, images, stored, resized)
    padded = _padded_size(op, resized, size if input_size.letterbox else None)
    batch = _normalize(op, pixels, detector, resized, padded)
    builder.pop_module()
    outputs = _insert(builder, network, batch)
    named = dict(zip(output_names(detector), outputs, strict=True))
    builder.push_module("postprocess")
    level_sizes, locations = postprocessing.pyramid(op, padded, detector.config)
    if postprocess is None:
        for name, value in (named | {"locations": locations, "resized": resized}).items():
            builder.add_output(value, name)
    else:
        part = Network(
            logits=named["logits"],
            ltrb=named["ltrb"],
            quality=named.get("quality"),
            locations=locations,
            level_sizes=level_sizes,
            levels=len(detector.config.levels),
            num_classes=num_classes,
        )
        found = postprocessing.detect(op, part, resized, stored, settings(builder, postprocess))
        for name, value in zip(("boxes", "scores", "labels", "counts"), found, strict=True):
            builder.add_output(value, name)
    return ir.Model(graph, ir_version=_IR_VERSION)


def _setting(builder: Any, name: str, value: Any, dtype: ir.DataType) -> Any:
    """An input that has a default value."""
    tensor = ir.tensor(value, dtype=dtype, name=name)
    return builder.input(name, dtype, tensor.shape, const_value=tensor)


def settings(builder: Any, postprocess: Postprocess) -> Settings:
    """Adds the settings of post-processing to a graph: inputs with default values."""
    values = asdict(postprocess)
    types = {"score_threshold": _FLOAT, "nms_iou_threshold": _FLOAT, "pre_nms_topk": _INT, "max_detections": _INT}
    inputs = {name: _setting(builder, name, [values[name]], dtype) for name, dtype in types.items()}
    return Settings(**inputs, score_mode=postprocess.score_mode)


def _padded_size(op: OpBuilder, resized: Any, canvas: Any | None) -> Any:
    """Height and width of the network's input, int64 [2]: `padded_size` of the image or of the canvas."""
    size = resized if canvas is None else op.Max(resized, canvas)
    return op.Mul(op.Div(op.Add(size, [MULTIPLE - 1]), [MULTIPLE]), [MULTIPLE])


def _normalize(op: OpBuilder, pixels: Any, detector: Detector, resized: Any, padded: Any) -> Any:
    """Pixels uint8 [B, H, W, 3] to the network's input float [B, 3, H', W'], 0 in the padding."""
    factor, offset = (
        op.Constant(value=ir.tensor(values.flatten().cpu()[:, None].numpy()))
        for values in (1 / (255 * detector.std), detector.mean / detector.std)
    )
    # Channels first, so that a factor is for many consecutive numbers. In three dimensions, since ONNX Runtime would
    # move the Transpose behind the Mul otherwise.
    channels = op.Reshape(op.Transpose(pixels, perm=[0, 3, 1, 2]), [0, 0, -1])
    normalized = op.Sub(op.Mul(op.Cast(channels, to=_FLOAT), factor), offset)
    normalized = op.Reshape(normalized, op.Concat([0, 0], resized, axis=0))
    added = op.Sub(padded, resized)
    return op.Pad(normalized, op.Concat([0, 0, 0, 0, 0, 0], added, axis=0))


def _insert(builder: Any, network: ir.Model, batch: Any) -> list[Any]:
    """Moves the network's operators and weights into the graph; returns the network's outputs."""
    source, target = network.graph, builder.graph
    (images,) = source.inputs
    ir.convenience.replace_all_uses_with(images, batch)
    outputs = list(source.outputs)
    weights = list(source.initializers.values())
    nodes = list(source)
    source.outputs.clear()
    source.initializers.clear()
    source.remove(nodes)
    for weight in weights:
        target.register_initializer(weight)
    target.extend(nodes)
    return outputs
