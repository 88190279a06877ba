"""FCOS object detection: networks, losses and training in PyTorch.

    detector = fcos.load("models/detector.safetensors")
    result = detector.predict("photo.jpg")  # result.boxes, .scores, .labels, .names

The network alone, whose outputs are tensors:

    detector, description = fcos.load_detector("models/detector.safetensors")
    outputs = detector(detector.prepare([image]))  # uint8 [3, H, W], RGB
    detections = fcos.Postprocess()(outputs, [(height, width)])

Public names are imported when they are first used, so that `import fcos` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fcos.config import PAPER, InputSize, LossWeights, ModelConfig
    from fcos.criterion import Criterion
    from fcos.detector import Detector, build
    from fcos.postprocess import Detections, Postprocess
    from fcos.predictor import Predictor, Result, load
    from fcos.structures import Outputs, Targets, make_targets
    from fcos.weights import Description, load_detector
    from fcos.weights import save_detector as save

__all__ = [
    "PAPER",
    "Criterion",
    "Description",
    "Detections",
    "Detector",
    "InputSize",
    "LossWeights",
    "ModelConfig",
    "Outputs",
    "Postprocess",
    "Predictor",
    "Result",
    "Targets",
    "build",
    "load",
    "load_detector",
    "make_targets",
    "save",
]

# Public name to its module and its name there.
_SOURCES = {
    "PAPER": "config.PAPER",
    "Criterion": "criterion.Criterion",
    "Description": "weights.Description",
    "Detections": "postprocess.Detections",
    "Detector": "detector.Detector",
    "InputSize": "config.InputSize",
    "LossWeights": "config.LossWeights",
    "ModelConfig": "config.ModelConfig",
    "Outputs": "structures.Outputs",
    "Postprocess": "postprocess.Postprocess",
    "Predictor": "predictor.Predictor",
    "Result": "predictor.Result",
    "Targets": "structures.Targets",
    "build": "detector.build",
    "load": "predictor.load",
    "load_detector": "weights.load_detector",
    "make_targets": "structures.make_targets",
    "save": "weights.save_detector",
}


def __getattr__(name: str) -> object:
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _SOURCES[name].split(".")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
