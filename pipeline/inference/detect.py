"""Detections in all images of a split; boxes are in pixels of the stored images."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from fcos.postprocess import Detections
from pipeline.data.annotations import AnnotationSet, Image
from pipeline.data.boxes import xyxy_to_xywh
from pipeline.data.detections import Detection
from pipeline.data.images import read_image


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
                yield from to_records(image, detections, split)
        progress(len(batch))


def to_records(image: Image, detections: Detections, split: AnnotationSet) -> Iterator[Detection]:
    """Detections in an image of a split, with the data set's own ids."""
    for box, score, label in zip(
        detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
    ):
        yield Detection(image.id, split.categories[label].id, xyxy_to_xywh(box), score)
