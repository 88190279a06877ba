"""Images through a detector: files in, detections in the pixels of the files out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
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
from pipeline.params import PostprocessParams


def make_postprocess(params: PostprocessParams) -> Postprocess:
    """The post-processing that the section `postprocess` of params.yaml describes."""
    return Postprocess(**asdict(params))


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
    """Detects objects in one batch.

    Args:
        images: uint8 [3, H, W] each, as stored.
        input_size: what the detector was trained at.

    Returns:
        An image's detections each, on the CPU, boxes in the stored image's pixels.
    """
    small = [resized(image, *input_size.resized(image.shape[-2], image.shape[-1])) for image in images]
    _, found = forward(detector, small, input_size, postprocess)
    return [_back(one, inside, image) for one, inside, image in zip(found, small, images, strict=True)]


def _back(found: Detections, resized: torch.Tensor, image: torch.Tensor) -> Detections:
    """From the resized image's pixels to the stored one's."""
    height, width = (image.shape[side] / resized.shape[side] for side in (-2, -1))
    boxes = found.boxes.cpu() * torch.tensor([width, height, width, height])
    return Detections(boxes, found.scores.cpu(), found.labels.cpu())


def detect_split(
    detector: Detector,
    split: AnnotationSet,
    folder: Path,
    *,
    input_size: InputSize,
    postprocess: Postprocess,
    batch_size: int,
    progress: Callable[[int], object] = int,
    rank: int = 0,
    processes: int = 1,
) -> Iterator[Detection]:
    """Detections in all images of a split, with the data set's own ids.

    Args:
        rank: which of the processes this is; each detects in its share of the batches alone.
        progress: told the number of images done with each batch, as often in every process.
    """
    # Images of like shape share a batch, so that little of it is padding.
    by_shape = sorted(split.images, key=lambda image: (image.width / image.height, image.id))
    for start in range(0, len(by_shape), batch_size * processes):
        first = start + rank * batch_size
        group = by_shape[first : first + batch_size]
        if group:
            images = [read_image(folder / image.file_name) for image in group]
            found = detect(detector, images, input_size, postprocess)
            for image, one in zip(group, found, strict=True):
                yield from _records(image, one, split)
        progress(len(group))


def _records(image: Image, found: Detections, split: AnnotationSet) -> Iterator[Detection]:
    for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        yield Detection(image.id, split.categories[label].id, xyxy_to_xywh(box), score)
