"""Embeddings of images and objects: features of the pyramid before the head, taken from the pass that detects.

An object's embedding is RoIAlign (He et al., 1703.06870) of its box, with 2×2 cells, on the level that detects objects
of its size. An image's embedding is the mean of each level, one after another. All are unit vectors, so that the dot
product of two is their cosine similarity.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fcos.config import InputSize, ModelConfig
from fcos.detector import Detector
from fcos.locations import size_ranges
from fcos.ops.torchvision_library import load_operators
from fcos.postprocess import Detections
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.evaluation.embedding_files import Embeddings, Ids

load_operators("_C")

_MIN_DETECTIONS = 10  # of an image that have an embedding: the best ones, and twice as many as there are objects
# Of a box, in each direction. With a single cell, shapes are lost: on `digits`, the nearest objects told the class of
# 30 % of the objects instead of 51 %. Nine cells gained 5 points more, for files of twice the size.
_CELLS = 2
_SAMPLES = 2  # features interpolated in a cell, in each direction

DetectBatch = Callable[[Sequence[Tensor]], list[Detections]]


@contextmanager
def record_pyramid(detector: Detector) -> Iterator[list[Tensor]]:
    """Yields a list that receives the pyramid's levels of the next batch. Empty it to record another batch.

    With several views of an image, the first one is recorded: the whole image, not mirrored.
    """
    levels: list[Tensor] = []

    def record(_module: object, _inputs: object, output: Sequence[Tensor]) -> None:
        if not levels:
            levels.extend(output)

    handle = detector.neck.register_forward_hook(record)
    try:
        yield levels
    finally:
        handle.remove()


def embed_images(levels: Sequence[Tensor], sizes: Sequence[tuple[int, int]], strides: Sequence[int]) -> Tensor:
    """Embeddings [B, levels · C] of the images of a batch.

    Args:
        levels: [B, C, h, w] each.
        sizes: height and width of each image in the batch, without padding, which does not count.
    """
    extents = torch.tensor(sizes, device=levels[0].device)
    # Levels have different scales: each gets the same weight.
    pooled = [
        F.normalize(_mean(level.float(), -(-extents // stride))) for level, stride in zip(levels, strides, strict=True)
    ]
    return F.normalize(torch.cat(pooled, dim=1))


def _mean(level: Tensor, extents: Tensor) -> Tensor:
    """Means [B, C] of a level [B, C, h, w] over the cells inside the images: their heights and widths [B, 2]."""
    rows, columns = (
        (torch.arange(side, device=level.device) < extent[:, None]) / extent[:, None]
        for side, extent in zip(level.shape[2:], extents.unbind(dim=1), strict=True)
    )
    weights = (rows[:, :, None] * columns[:, None]).flatten(1)
    cells = level.permute(0, 2, 3, 1).flatten(1, 2)  # no copy of a channels-last level
    return torch.bmm(weights[:, None], cells).squeeze(1)


def embed_boxes(levels: Sequence[Tensor], boxes: Sequence[Tensor], config: ModelConfig) -> Tensor:
    """Embeddings [N, 4 · C] of the boxes in the images of a batch, image by image.

    Args:
        levels: [B, C, h, w] each.
        boxes: [n, 4] of each image, x1, y1, x2, y2 in pixels of the batch.
    """
    joined = torch.cat(list(boxes)).to(levels[0])
    images = torch.arange(len(boxes)).repeat_interleave(torch.tensor([len(group) for group in boxes])).to(joined)
    rois = torch.cat([images[:, None], joined], dim=1)
    # The largest distance from the center to a side: what the regression ranges of the levels compare.
    reach = (joined[:, 2:] - joined[:, :2]).amax(dim=1) / 2
    pooled = levels[0].new_zeros(len(joined), levels[0].shape[1] * _CELLS**2)
    ranges = size_ranges(config.strides, config.regression_ranges)
    for level, stride, (above, up_to) in zip(levels, config.strides, ranges, strict=True):
        here = (reach > above) & (reach <= up_to)
        features = torch.ops.torchvision.roi_align(level, rois[here], 1 / stride, _CELLS, _CELLS, _SAMPLES, True)
        pooled[here] = features.flatten(1)
    return F.normalize(pooled.float())


class SplitEmbedder:
    """A function of a batch of images for `detect_split`, which also collects the embeddings of a split.

    Args:
        detector: runs in `detect_batch`.
        input_size: that of the first view that `detect_batch` takes of an image.
        detect_batch: returns the detections of each image of a batch, in pixels of the stored image.
    """

    def __init__(
        self, detector: Detector, split: AnnotationSet, input_size: InputSize, detect_batch: DetectBatch
    ) -> None:
        self._detector, self._split, self._input_size, self._detect_batch = detector, split, input_size, detect_batch
        # The order in which `detect_split` reads the images.
        self._images = iter(sorted(split.images, key=lambda image: (image.width / image.height, image.id)))
        self._objects: dict[int, list[Annotation]] = {image.id: [] for image in split.images}
        for item in split.objects:
            self._objects[item.image_id].append(item)
        self._batches = [_empty(detector.config)]
        self._num_detections = 0

    @torch.inference_mode()
    def __call__(self, pixels: Sequence[Tensor]) -> list[Detections]:
        """Detects objects in the next images of the split."""
        with record_pyramid(self._detector) as levels:
            found = self._detect_batch(pixels)
        self._batches.append(self._embed(list(islice(self._images, len(pixels))), found, levels))
        return found

    def _embed(self, images: Sequence[Image], found: Sequence[Detections], levels: Sequence[Tensor]) -> Embeddings:
        config = self._detector.config
        sizes = [self._input_size.resized(image.height, image.width) for image in images]
        objects = [self._objects[image.id] for image in images]
        best = [item.boxes[: max(_MIN_DETECTIONS, 2 * len(group))] for item, group in zip(found, objects, strict=True)]
        boxes = [torch.cat([_boxes(group), kept]) for group, kept in zip(objects, best, strict=True)]
        scales = [
            torch.tensor([width / image.width, height / image.height] * 2)
            for image, (height, width) in zip(images, sizes, strict=True)
        ]
        vectors = _half(embed_boxes(levels, [box * scale for box, scale in zip(boxes, scales, strict=True)], config))
        of_objects = np.concatenate(
            [np.arange(len(box)) < len(group) for box, group in zip(boxes, objects, strict=True)]
        )
        return Embeddings(
            image_ids=_ids(image.id for image in images),
            images=_half(embed_images(levels, sizes, config.strides)),
            annotation_ids=_ids(item.id for group in objects for item in group),
            annotations=vectors[of_objects],
            detection_rows=self._next_rows(found, best),
            detections=vectors[~of_objects],
        )

    def _next_rows(self, found: Sequence[Detections], best: Sequence[Tensor]) -> Ids:
        """Positions of the best detections of each image in the list of all detections of the split."""
        rows: list[int] = []
        for detections, kept in zip(found, best, strict=True):
            rows += range(self._num_detections, self._num_detections + len(kept))
            self._num_detections += len(detections)
        return _ids(rows)

    def embeddings(self) -> Embeddings:
        """The embeddings of all batches; images and objects are in the order of the split."""
        joined = Embeddings(
            *(np.concatenate([getattr(batch, field.name) for batch in self._batches]) for field in fields(Embeddings))
        )
        return joined.of_images(image.id for image in self._split.images).of_annotations(
            item.id for item in self._split.objects
        )


def _empty(config: ModelConfig) -> Embeddings:
    """So that the arrays have the right shape without any object, too."""
    none, of_objects = _ids([]), np.empty((0, config.channels * _CELLS**2), np.float16)
    return Embeddings(
        none, np.empty((0, len(config.levels) * config.channels), np.float16), none, of_objects, none, of_objects
    )


def _ids(numbers: Iterable[int]) -> Ids:
    return np.fromiter(numbers, dtype=np.int64)


def _boxes(objects: Sequence[Annotation]) -> Tensor:
    return torch.tensor([xywh_to_xyxy(item.bbox) for item in objects]).reshape(-1, 4)


def _half(vectors: Tensor) -> NDArray[np.float16]:
    return vectors.half().cpu().numpy()
