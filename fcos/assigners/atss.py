"""ATSS: each object's own IoU statistics tell which locations learn it."""

import torch
from torch import Tensor

from fcos.assigners.conflicts import assignment, resolve
from fcos.assigners.windows import columns_and_rows, places
from fcos.config import ModelConfig
from fcos.locations import LevelGrid, Locations
from fcos.ops.boxes import aligned_iou, contains
from fcos.structures import Assignment, Outputs, Targets

_ANCHOR = 8  # strides: the side of the square anchor around each location (section 3.1)


def assign_atss(outputs: Outputs, batch: Targets, config: ModelConfig) -> Assignment:
    """Adaptive training sample selection (Zhang et al., 1912.02424, algorithm 1).

    An object's candidates are the `config.atss_topk` locations of each level nearest to its center (of equally
    near ones, the first). Those are positive that lie inside its box, and whose anchor, a square of 8 strides, overlaps
    the box by at least the mean plus the standard deviation (n − 1) of all the candidates' IoU. A location of several
    objects goes to the highest IoU; of equal ones, to the first object.

    Args:
        outputs: their P locations alone are used.
        batch: B images of up to M objects.
    """
    locations = outputs.locations
    cells = _candidates(locations, batch.boxes, config.atss_topk)
    xy, boxes = locations.xy[cells], batch.boxes[:, :, None]
    half = _ANCHOR / 2 * locations.strides[cells][..., None]
    overlap, _ = aligned_iou(torch.cat([xy - half, xy + half], dim=-1), boxes)
    deviation = overlap.std(dim=-1, correction=min(1, cells.shape[-1] - 1), keepdim=True)
    positive = contains(boxes, xy) & batch.valid[..., None]
    positive &= overlap >= overlap.mean(dim=-1, keepdim=True) + deviation
    costs = (-overlap).where(positive, torch.inf)
    return assignment(locations, batch, *resolve(cells, costs, len(locations.xy)))


def _candidates(locations: Locations, boxes: Tensor, count: int) -> Tensor:
    """Places [B, M, C] of the locations nearest to the centers of boxes [B, M, 4], `count` or all of each level."""
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    cells, start = [], 0
    for grid in locations.grids:
        cells.append(_nearest(grid, centers, count) + start)
        start += grid.count
    return torch.cat(cells, dim=-1)


def _nearest(grid: LevelGrid, centers: Tensor, count: int) -> Tensor:
    # The n nearest cells lie in the n nearest columns and rows; one more, for rounding.
    columns, rows = columns_and_rows(grid, centers, count + 1, count + 1)
    x = columns * grid.step_x + grid.first - centers[..., :1]
    y = rows * grid.step_y + grid.first - centers[..., 1:]
    distance = (y.square()[..., :, None] + x.square()[..., None, :]).flatten(-2)
    # A stable sort keeps equally near cells in their order, on every device; topk doesn't.
    order = distance.sort(dim=-1, stable=True).indices[..., :count]
    return places(grid, columns, rows).gather(-1, order)
