"""Detects objects in several views of each image (test-time augmentation): at several sizes, mirrored, and in tiles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Literal

import torch

from fcos.config import InputSize
from fcos.detector import Detector
from fcos.inference import detect_resized, fit, rescale
from fcos.onnx_detector import OnnxDetector
from fcos.postprocess import Detections, Postprocess
from pipeline.data.tiles import cut
from pipeline.errors import count_noun
from pipeline.inference import tiles
from pipeline.inference.merging import MERGES
from pipeline.params import EvaluateParams, Fraction, Sizes, TileSize


@dataclass(frozen=True, kw_only=True)
class Views:
    """The views of an image that objects are detected in, and how their detections are merged.

    The defaults are a single view: the image at the size that the detector was trained at.
    """

    sizes: Sizes | None = None  # as train.size; None: the one that the detector was trained at
    flip: bool = False  # also the mirrored image, at each size
    tiles: TileSize | None = None  # side in pixels and overlap as a fraction: also tiles of the image
    merge: Literal["nms", "wbf"] = "nms"  # a name of MERGES, for the detections at several sizes and of mirrored images
    merge_iou_threshold: Fraction = 0.65  # IoU above which boxes of one class are merged

    @classmethod
    def of(cls, params: EvaluateParams) -> "Views":
        """The views that the section `evaluate` of params.yaml describes."""
        return cls(**{field.name: getattr(params, field.name) for field in fields(cls)})

    @property
    def number(self) -> int:
        """The number of views of an image, or of each tile."""
        return len(self.sizes or (1,)) * (1 + self.flip)

    def is_like(self, other: "Views") -> bool:
        """Whether both give the same detections: without several views, there is nothing to merge."""
        if self.number == 1 and self.tiles is None:
            return (other.sizes, other.number, other.tiles) == (self.sizes, 1, None)
        return self == other

    def describe(self) -> str:
        """Words for messages, such as `size 256×256, mirrored too`."""
        size = " and ".join(f"{height}×{width}" for height, width in self.sizes or ())
        words = [f"{'size' if self.number == 1 else 'sizes'} {size}" if size else "the size of training"]
        if self.flip:
            words.append("mirrored too")
        if self.tiles:
            words.append(f"tiles of {count_noun(self.tiles[0], 'pixel')} that overlap by {self.tiles[1]:g}")
        return ", ".join(words)

    def input_sizes(self, trained: InputSize) -> list[InputSize]:
        """The sizes, of a detector that was trained at the given one. Without letterbox, their sides have no order."""
        if self.sizes is None:
            return [trained]
        return [
            InputSize(size if trained.letterbox else (min(size), max(size)), trained.letterbox) for size in self.sizes
        ]


def detect_in_views(
    detector: Detector | OnnxDetector,
    images: Sequence[torch.Tensor],
    input_size: InputSize,
    postprocess: Postprocess,
    views: Views,
    batch_size: int,
) -> list[Detections]:
    """Detects objects in all views of a batch of images, and merges the detections of each image.

    An image that is larger than a tile is detected as a whole, too, for objects that are larger than a tile.

    Args:
        images: uint8 [3, H, W], at their stored size.
        input_size: the size that the detector was trained at.
        batch_size: number of tiles in a batch.

    Returns:
        The detections of each image, on the CPU, boxes in pixels of the stored image. With a single view, they are
        exactly those of `detect`.
    """
    sizes = views.input_sizes(input_size)
    whole = _detect(detector, images, sizes, postprocess, views)
    if views.tiles is None:
        return whole
    regions = [cut(image.shape[-2], image.shape[-1], *views.tiles) for image in images]
    crops = [(image, tile) for image, parts in zip(images, regions, strict=True) for tile in parts[1:]]
    found: list[Detections] = []
    for start in range(0, len(crops), batch_size):
        batch = [tile.crop(image) for image, tile in crops[start : start + batch_size]]
        found += _detect(detector, batch, sizes, postprocess, views)
    in_tiles = iter(found)
    threshold, limit = views.merge_iou_threshold, postprocess.max_detections
    return [
        tiles.join(parts, [detections, *islice(in_tiles, len(parts) - 1)], threshold, limit)
        if len(parts) > 1
        else detections
        for detections, parts in zip(whole, regions, strict=True)
    ]


def _detect(
    detector: Detector | OnnxDetector,
    images: Sequence[torch.Tensor],
    sizes: Sequence[InputSize],
    postprocess: Postprocess,
    views: Views,
) -> list[Detections]:
    """Detections in a batch of images at all sizes, and mirrored, merged for each image."""
    found = [
        detections for size in sizes for detections in _detect_at_size(detector, images, size, postprocess, views.flip)
    ]
    if len(found) == 1:
        return found[0]
    return MERGES[views.merge](found, views.merge_iou_threshold, postprocess.max_detections)


def _detect_at_size(
    detector: Detector | OnnxDetector,
    images: Sequence[torch.Tensor],
    size: InputSize,
    postprocess: Postprocess,
    flip: bool,
) -> Iterator[list[Detections]]:
    """Yields the detections of a batch, and with `flip` those in the mirrored images, mirrored back."""
    inputs = [fit(image, size) for image in images]
    batch = detect_resized(detector, inputs, size, postprocess)
    yield [rescale(*parts) for parts in zip(batch, inputs, images, strict=True)]
    if flip:
        batch = detect_resized(detector, [image.flip(-1) for image in inputs], size, postprocess)
        found = [rescale(*parts) for parts in zip(batch, inputs, images, strict=True)]
        yield [mirror(detections, image.shape[-1]) for detections, image in zip(found, images, strict=True)]


def mirror(detections: Detections, width: int) -> Detections:
    """The detections in the mirrored image, which is `width` pixels wide."""
    x1, y1, x2, y2 = detections.boxes.unbind(-1)
    return replace(detections, boxes=torch.stack([width - x2, y1, width - x1, y2], dim=-1))
