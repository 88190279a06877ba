"""An exported detector whose network is a single convolution, written in a moment: torch's exporter takes seconds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.postprocess import Postprocess
from fcos.weights import Description, save_detector

CATEGORIES = ((7, "cat"), (3, "dog"))
_CONFIG = replace(
    PAPER, backbone="tiny", pretrained=False, channels=16, levels=(3,), tower_depth=0, frozen_stages=0, quality="none"
)


def save_onnx_detector(path: Path) -> Path:
    """Writes an ONNX file, which detects dozens of objects on noise."""
    import onnx_ir as ir
    import onnxscript

    from pipeline.export import detector_files
    from pipeline.inference.saved_detector import SavedDetector

    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="network")
    builder = onnxscript.GraphBuilder(graph)
    batch, op = builder.input("batch", ir.DataType.FLOAT, ["batch", 3, "height", "width"]), builder.op
    rng = np.random.default_rng(0)
    for name, channels, scale in (("logits", len(CATEGORIES), 0.3), ("ltrb", 4, 4.0)):
        weight = op.Constant(value=ir.tensor(rng.normal(0, scale, (channels, 3, 8, 8)).astype(np.float32)))
        cells = op.Conv(batch, weight, strides=[8, 8], kernel_shape=[8, 8])
        shape = op.Constant(value_ints=[0, channels, -1])  # a list would become an initializer without a unique name
        values = op.Transpose(op.Reshape(cells, shape), perm=[0, 2, 1])
        builder.add_output(values if name == "logits" else op.Relu(values), name)
    torch.manual_seed(0)
    detector = build(_CONFIG, len(CATEGORIES)).eval()
    description = Description(model=_CONFIG, categories=CATEGORIES, input_size=InputSize((64, 96)))
    weights = path.with_name("traced.safetensors")
    save_detector(detector, description, weights)
    model = SavedDetector(detector, description)
    about = detector_files.metadata(model, weights, Postprocess(score_threshold=0.3), raw=False)
    ir.save(detector_files.complete(ir.Model(graph, ir_version=10), model, about), path)
    for file in (weights, weights.with_suffix(".json")):
        file.unlink()
    return path
