"""Static quantization of a detector to int8, and what it costs and gains, measured."""

import copy
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnxruntime import quantization
from torch import Tensor

from fcos.inference import fit
from fcos.onnx_detector import OnnxDetector
from fcos.postprocess import Postprocess
from pipeline.data.annotations import AnnotationSet
from pipeline.evaluation import coco
from pipeline.inference.detect import detect_split
from pipeline.inference.saved_detector import SavedDetector

# The last convolutions, whose outputs are scores and distances. Their rounding to 8 bits costs the most accuracy.
_KEPT_IN_FLOAT = ("head.class_logits.", "head.box.", "head.quality.")
_TIMED_ROUNDS = 3


class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
    """The calibration images as the network gets them, one at a time."""

    def __init__(self, batches: Iterable[NDArray[Any]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"batch": batch}


def prepare(model: SavedDetector, images: Iterable[Tensor]) -> Iterator[NDArray[Any]]:
    """Yields each image, uint8 [3, H, W] as stored, as a batch of the network."""
    input_size = model.description.input_size
    for image in images:
        yield model.network.prepare([fit(image, input_size)], input_size.canvas).contiguous().numpy()


def quantize(network: onnx.ModelProto, batches: Iterable[NDArray[Any]]) -> ir.Model:
    """Quantizes a network's convolutions, weights channel by channel, except for the last ones of the head.

    Args:
        network: of `to_onnx`.
        batches: float [1, 3, H, W] each, from which the ranges of activations are taken.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "int8.onnx")
        quantization.quantize_static(
            copy.deepcopy(network),  # its weights are moved to a file
            path,
            _Batches(batches),
            quant_format=quantization.QuantFormat.QDQ,
            # With Relu and Clip, a convolution's result gets the range of its activation, not one before it.
            op_types_to_quantize=["Conv", "Relu", "Clip"],
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[node.name for node in network.graph.node if _is_last(node)],
        )
        return ir.from_proto(onnx.load(path))  # not `ir.load`, which reads weights when they are needed


def _is_last(node: onnx.NodeProto) -> bool:
    return node.op_type == "Conv" and any(part in node.input[1] for part in _KEPT_IN_FLOAT)


def average_precision(path: Path, truth: AnnotationSet, folder: Path, postprocess: Postprocess) -> dict[str, Any]:
    """AP and AP50 of an exported detector in a split.

    Args:
        folder: the folder that the file names of the split are relative to.
    """
    detector = OnnxDetector(path, torch.device("cpu"))
    input_size = detector.metadata.description.input_size
    found = detect_split(lambda images: detector.detect(images, input_size, postprocess), truth, folder, batch_size=1)
    scores = coco.fast_ap(truth, list(found))
    return {"AP": scores["AP"], "AP50": scores["AP50"]}


def seconds_per_image(paths: Sequence[Path], images: Sequence[Tensor], postprocess: Postprocess) -> list[float]:
    """The median seconds that each exported detector takes for an image, measured in turn."""
    detectors = [OnnxDetector(path, torch.device("cpu")) for path in paths]
    times: list[list[float]] = [[] for _ in detectors]
    for round_number in range(_TIMED_ROUNDS + 1):
        for image in images:
            for detector, seconds in zip(detectors, times, strict=True):
                start = time.perf_counter()
                detector.detect([image], detector.metadata.description.input_size, postprocess)
                if round_number:  # the first one allocates memory
                    seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds) for seconds in times]


def describe_machine() -> dict[str, Any]:
    """What the measured times depend on besides the detector."""
    return {"threads": torch.get_num_threads(), "cores": os.cpu_count()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without hints of the quantizer that concern its caller."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
