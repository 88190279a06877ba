"""A saved detector applied to images of any size; boxes are in pixels of the images as given."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from fcos.config import InputSize
from fcos.detector import Detector, padded_size
from fcos.fast.fused import fuse
from fcos.onnx_detector import OnnxDetector
from fcos.onnx_files import SUFFIX
from fcos.ops.images import resized
from fcos.postprocess import Detections, Postprocess
from fcos.structures import Outputs
from fcos.weights import Description, load_detector

_BATCH_SIZE = 8


def load_fused(path: str | Path, device: torch.device | None = None) -> tuple[Detector | OnnxDetector, Description]:
    """Loads a detector for inference: batch norm is folded into the convolutions, and it can't be trained.

    Args:
        path: weights, or an exported detector in an ONNX file.

    Raises:
        ValueError: as for `load_detector` and `OnnxDetector`.
    """
    if Path(path).suffix == ".pt2":
        raise ValueError(
            f"{path}: programs of torch.export are for other programs; give the .safetensors file that it was exported "
            "from, or an ONNX file"
        )
    if Path(path).suffix == SUFFIX:
        exported = OnnxDetector(Path(path), device or torch.device("cpu"))
        return exported, exported.metadata.description
    detector, description = load_detector(path, device)
    return fuse(detector), description


@torch.inference_mode()
def forward(
    detector: Detector, images: Sequence[torch.Tensor], input_size: InputSize, postprocess: Postprocess
) -> tuple[Outputs, list[Detections]]:
    """Runs the network and post-processing on one batch.

    Args:
        images: uint8 [3, H, W] each, resized for the network.
        input_size: the size that the detector was trained at; images are padded to its canvas.

    Returns:
        The outputs at all locations, and the detections of each image, in the pixels of `images`.
    """
    outputs = detector(detector.prepare(images, input_size.canvas))
    return outputs, postprocess(outputs, [(image.shape[-2], image.shape[-1]) for image in images])


def detect_resized(
    detector: Detector | OnnxDetector,
    images: Sequence[torch.Tensor],
    input_size: InputSize,
    postprocess: Postprocess,
) -> list[Detections]:
    """The detections of each image of a batch: see `forward`."""
    if isinstance(detector, OnnxDetector):
        return detector.detect(images, input_size, postprocess)
    return forward(detector, images, input_size, postprocess)[1]


def detect(
    detector: Detector | OnnxDetector, images: Sequence[torch.Tensor], input_size: InputSize, postprocess: Postprocess
) -> list[Detections]:
    """Detects objects in a batch of images.

    Args:
        images: uint8 [3, H, W], at their stored size.
        input_size: the size that the detector was trained at; images are resized to it.

    Returns:
        The detections of each image, on the CPU, boxes in pixels of the stored image.
    """
    inputs = [fit(image, input_size) for image in images]
    batch = detect_resized(detector, inputs, input_size, postprocess)
    return [rescale(*parts) for parts in zip(batch, inputs, images, strict=True)]


def fit(image: torch.Tensor, input_size: InputSize) -> torch.Tensor:
    """Resizes an image [3, H, W] to the size at which the network gets it."""
    return resized(image, *input_size.resized(image.shape[-2], image.shape[-1]))


def rescale(detections: Detections, resized: torch.Tensor, stored: torch.Tensor) -> Detections:
    """Moves detections to the CPU, and converts boxes from pixels of the resized image to pixels of the stored one."""
    height, width = (stored.shape[side] / resized.shape[side] for side in (-2, -1))
    boxes = detections.boxes.cpu() * torch.tensor([width, height, width, height])
    return Detections(boxes, detections.scores.cpu(), detections.labels.cpu())


def above_thresholds(detections: Detections, thresholds: Sequence[float]) -> Detections:
    """The detections with at least the score that is required of their class; `thresholds` is indexed by label."""
    # In double precision: a threshold rounded to float32 could exclude the score that it was chosen for.
    lowest = torch.tensor(thresholds, dtype=torch.float64, device=detections.scores.device)
    return detections[detections.scores >= lowest[detections.labels]]


def default_batch_size(input_size: InputSize, device: torch.device) -> int:
    """Images in a batch: 8; on a CPU as many as have a quarter of a megapixel, since larger batches aren't faster."""
    if device.type != "cpu":
        return _BATCH_SIZE
    return max(1, min(_BATCH_SIZE, 2**18 // math.prod(input_size.size)))


def network_size(image: torch.Tensor, input_size: InputSize) -> tuple[int, int]:
    """Height and width, with padding, of the batch in which the network gets an image [3, H, W] alone.

    Images for which they are equal can share a batch: each has the padding that it would have alone.
    """
    return padded_size(*(input_size.canvas or input_size.resized(image.shape[-2], image.shape[-1])))
