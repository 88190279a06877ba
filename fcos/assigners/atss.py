"""ATSS: a threshold from each object's IoU statistics selects the locations that learn it."""

import torch
from torch import Tensor

from fcos.assigners.conflicts import assignment, resolve
from fcos.assigners.windows import cell_indices, nearest_columns_and_rows
from fcos.config import ModelConfig
from fcos.locations import LevelGrid, Locations
from fcos.ops.boxes import aligned_iou, contains
from fcos.structures import Assignment, Outputs, Targets

_ANCHOR = 8  # side of the square anchor around each location, in strides (section 3.1)


def assign_atss(outputs: Outputs, batch: Targets, config: ModelConfig) -> Assignment:
    """Adaptive training sample selection (Zhang et al., 1912.02424, algorithm 1).

    The candidates of an object are the `config.atss_topk` locations of each level nearest to its center; of equally
    near locations, the first. A candidate is positive if it lies inside the box and if the IoU of its anchor, a square
    of 8 strides, with the box is at least the mean plus the standard deviation (n − 1) of all candidates' IoU. A
    location that is positive for several objects learns the one with the highest IoU; of equal ones, the first.

    Args:
        outputs: only their P locations are used.
        batch: B images with up to M objects.
        config: `atss_topk`.
    """
    locations = outputs.locations
    cells = _candidates(locations, batch.boxes, config.atss_topk)
    xy, boxes = locations.xy[cells], batch.boxes[:, :, None]
    half = _ANCHOR / 2 * locations.strides[cells][..., None]
    iou, _ = aligned_iou(torch.cat([xy - half, xy + half], dim=-1), boxes)
    deviation = iou.std(dim=-1, correction=min(1, cells.shape[-1] - 1), keepdim=True)
    positive = contains(boxes, xy) & batch.valid[..., None]
    positive &= iou >= iou.mean(dim=-1, keepdim=True) + deviation
    costs = (-iou).where(positive, torch.inf)
    return assignment(locations, batch, *resolve(cells, costs, len(locations.xy)))


def _candidates(locations: Locations, boxes: Tensor, count: int) -> Tensor:
    """Indices [B, M, C] of the locations nearest to the centers of boxes [B, M, 4], up to `count` of each level."""
    centers = (boxes[..., :2] + boxes[..., 2:]) / 2
    cells, start = [], 0
    for grid in locations.grids:
        cells.append(_nearest(grid, centers, count) + start)
        start += grid.count
    return torch.cat(cells, dim=-1)


def _nearest(grid: LevelGrid, centers: Tensor, count: int) -> Tensor:
    # The n nearest cells lie in the n nearest columns and rows; one more because of rounding.
    columns, rows = nearest_columns_and_rows(grid, centers, count + 1, count + 1)
    x = columns * grid.step_x + grid.first - centers[..., :1]
    y = rows * grid.step_y + grid.first - centers[..., 1:]
    distance = (y.square()[..., :, None] + x.square()[..., None, :]).flatten(-2)
    # A stable sort keeps the order of equally near cells on every device; topk does not.
    order = distance.sort(dim=-1, stable=True).indices[..., :count]
    return cell_indices(grid, columns, rows).gather(-1, order)
