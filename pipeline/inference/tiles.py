"""Joins the detections in the tiles of a large image and in the whole image."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fcos.ops.boxes import aligned_iou, area
from fcos.postprocess import Detections
from pipeline.data.tiles import Tile
from pipeline.inference.merging import by_score, concatenate, suppress

_MARGIN = 0.01  # of a tile's side: a box that ends nearer to the border of the tile is taken to be cut there
_BLOCK = 256  # boxes compared with all others at a time, to bound memory


def join(regions: Sequence[Tile], found: Sequence[Detections], iou_threshold: float, limit: int) -> Detections:
    """Joins the detections of overlapping regions of an image.

    A box that ends at the border of a tile, inside the image, may be only a part of its object. Before overlapping
    boxes are suppressed as usual, such parts are treated as follows:

    1. A part inside the complete box of an object of its class is removed, whatever the scores.
    2. Parts that face each other across a border become one box, with the higher score.
    3. Other parts stay.

    Args:
        regions: the whole image, in which no object is cut, then the tiles.
        found: the detections in each region, in pixels of the region.
        iou_threshold: IoU above which boxes of one class overlap; for a part, the share of it that another box covers.
        limit: largest number of detections.

    Returns:
        Detections in pixels of the image.
    """
    sides = torch.tensor([[tile.x1, tile.y1, tile.x2, tile.y2] for tile in regions], dtype=torch.float32)
    borders = sides.repeat_interleave(torch.tensor([len(region) for region in found]), dim=0)
    pooled = concatenate(found)
    pooled = replace(pooled, boxes=pooled.boxes + borders[:, :2].repeat(1, 2))
    cut_sides = _cut_sides(pooled.boxes, borders, sides[0])
    is_part = cut_sides.any(dim=1)
    complete = pooled[~is_part]
    complete = suppress(by_score(complete), iou_threshold, len(complete))
    is_part[is_part.clone()] = ~_covered(pooled[is_part], complete, iou_threshold)
    joined = _join_parts(pooled[is_part], borders[is_part], cut_sides[is_part], iou_threshold)
    return suppress(by_score(concatenate([complete, joined])), iou_threshold, limit)


def _cut_sides(boxes: Tensor, borders: Tensor, image: Tensor) -> Tensor:
    """Whether each side of the boxes [N, 4] is at a border [N, 4] that is not one of the image [4]: bool [N, 4]."""
    margin = _MARGIN * (borders[:, 2:] - borders[:, :2]).repeat(1, 2)
    return ((boxes - borders).abs() <= margin) & (borders != image)


def _covered(parts: Detections, complete: Detections, threshold: float) -> Tensor:
    """Whether a box of its class covers more than this share of each part: bool [N]."""
    blocks = []
    for boxes, labels in zip(torch.split(parts.boxes, _BLOCK), torch.split(parts.labels, _BLOCK), strict=True):
        iou, union = aligned_iou(boxes[:, None], complete.boxes)
        is_inside = iou * union > threshold * area(boxes)[:, None]
        blocks.append((is_inside & (labels[:, None] == complete.labels)).any(dim=1))
    return torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.bool)


def _join_parts(parts: Detections, borders: Tensor, cut_sides: Tensor, iou_threshold: float) -> Detections:
    """The smallest box around each set of parts that are connected, with their highest score."""
    pairs = torch.cat([_facing(axis, parts, borders, cut_sides, iou_threshold) for axis in (0, 1)])
    group, previous = torch.arange(len(parts)), None
    while previous is None or not group.equal(previous):
        previous = group  # each part takes the lowest number of its neighbors, until nothing changes
        for end, other in (pairs.T, pairs.T.flip(0)):
            group = group.scatter_reduce(0, end, group[other], "amin")
    first, group = torch.unique(group, return_inverse=True)
    rows = group[:, None].expand(-1, 2)
    low, high = (
        torch.zeros(len(first), 2).scatter_reduce(0, rows, corner, how, include_self=False)
        for corner, how in ((parts.boxes[:, :2], "amin"), (parts.boxes[:, 2:], "amax"))
    )
    scores = torch.zeros(len(first)).scatter_reduce(0, group, parts.scores, "amax")
    return Detections(torch.cat([low, high], dim=1), scores, parts.labels[first])


def _facing(axis: int, parts: Detections, borders: Tensor, cut_sides: Tensor, iou_threshold: float) -> Tensor:
    """Pairs [M, 2] of parts of one class on both sides of a border, whose extents along the border overlap.

    Args:
        axis: 0: a left and a right part; 1: an upper and a lower part.
    """
    lower, upper = (cut_sides[:, side].nonzero().squeeze(1) for side in (axis + 2, axis))
    pairs = []
    for block in torch.split(lower, _BLOCK):
        first, second = block[:, None], upper[None]
        (low_a, high_a), (low_b, high_b) = ((borders[part, axis], borders[part, axis + 2]) for part in (first, second))
        are_neighbors = (low_a < low_b) & (low_b <= high_a) & (high_a < high_b)
        along = parts.boxes[:, [1 - axis, 3 - axis]]
        start, end = torch.maximum(along[first, 0], along[second, 0]), torch.minimum(along[first, 1], along[second, 1])
        hull = torch.maximum(along[first, 1], along[second, 1]) - torch.minimum(along[first, 0], along[second, 0])
        match = are_neighbors & (end - start > iou_threshold * hull) & (parts.labels[first] == parts.labels[second])
        rows, columns = match.nonzero(as_tuple=True)
        pairs.append(torch.stack([block[rows], upper[columns]], dim=1))
    return torch.cat(pairs) if pairs else torch.zeros(0, 2, dtype=torch.int64)
