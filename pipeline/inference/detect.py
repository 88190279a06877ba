"""Runs a detector on images; detections are in pixels of the stored images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from fcos.config import InputSize
from fcos.detector import Detector
from fcos.postprocess import Detections, Postprocess
from fcos.structures import Outputs
from pipeline.data.annotations import AnnotationSet, Image
from pipeline.data.boxes import xyxy_to_xywh
from pipeline.data.detections import Detection
from pipeline.data.images import read_image, resized


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


def detect(
    detector: Detector, images: Sequence[torch.Tensor], input_size: InputSize, postprocess: Postprocess
) -> list[Detections]:
    """Detects objects in a batch of images.

    Args:
        images: uint8 [3, H, W], at their stored size.
        input_size: the size that the detector was trained at; images are resized to it.

    Returns:
        The detections of each image, on the CPU, boxes in pixels of the stored image.
    """
    inputs = [fit(image, input_size) for image in images]
    _, batch = forward(detector, inputs, input_size, postprocess)
    return [rescale(*parts) for parts in zip(batch, inputs, images, strict=True)]


def fit(image: torch.Tensor, input_size: InputSize) -> torch.Tensor:
    """Resizes an image [3, H, W] to the size at which the network gets it."""
    return resized(image, *input_size.resized(image.shape[-2], image.shape[-1]))


def rescale(detections: Detections, resized: torch.Tensor, stored: torch.Tensor) -> Detections:
    """Moves detections to the CPU, and converts boxes from pixels of the resized image to pixels of the stored one."""
    height, width = (stored.shape[side] / resized.shape[side] for side in (-2, -1))
    boxes = detections.boxes.cpu() * torch.tensor([width, height, width, height])
    return Detections(boxes, detections.scores.cpu(), detections.labels.cpu())


def detect_split(
    detect_batch: Callable[[Sequence[torch.Tensor]], list[Detections]],
    split: AnnotationSet,
    folder: Path,
    *,
    batch_size: int,
    progress: Callable[[int], object] = int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Detection]:
    """Detects objects in all images of a split, or in one process's share of them.

    Args:
        detect_batch: `detect`, or another function of a batch of images, with its other arguments bound.
        folder: the folder that the file names of the split are relative to.
        progress: called after each batch with the number of its images, equally often in every process.
        rank: index of this process; batches are dealt out to the processes in turn.

    Yields:
        Detections with the data set's own image and category ids, images in order of their aspect ratio.

    Raises:
        PipelineError: an image can't be decoded.
    """
    # Images of similar shape share a batch, so that little of it is padding.
    by_shape = sorted(split.images, key=lambda image: (image.width / image.height, image.id))
    for start in range(0, len(by_shape), batch_size * world_size):
        first = start + rank * batch_size
        batch = by_shape[first : first + batch_size]
        if batch:
            pixels = [read_image(folder / image.file_name, (image.width, image.height)) for image in batch]
            for image, detections in zip(batch, detect_batch(pixels), strict=True):
                yield from _to_records(image, detections, split)
        progress(len(batch))


def _to_records(image: Image, detections: Detections, split: AnnotationSet) -> Iterator[Detection]:
    for box, score, label in zip(
        detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
    ):
        yield Detection(image.id, split.categories[label].id, xyxy_to_xywh(box), score)
