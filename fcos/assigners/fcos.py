"""FCOS: a location learns the smallest object around it whose size is in the range of its level."""

import math

import torch
from torch import Tensor

from fcos.assigners.conflicts import assignment, resolve
from fcos.assigners.windows import cell_indices, nearest_columns_and_rows
from fcos.config import ModelConfig
from fcos.locations import LevelGrid, Locations
from fcos.ops.boxes import area, contains
from fcos.structures import Assignment, Outputs, Targets

# Pairs of location and object in one chunk, so that memory suffices for many images with hundreds of objects.
_CHUNK = 2**22
# Searching near the centers is faster if it covers at most this share of the pyramid.
_MAX_SHARE = 1 / 8


def assign_fcos(outputs: Outputs, batch: Targets, config: ModelConfig) -> Assignment:
    """FCOS assignment with center sampling (ICCV paper, section 3.1; TPAMI, section 3.2).

    A location is positive for an object if it lies inside the box and within `config.center_sampling_radius` strides
    of its center (0: anywhere in the box), and max(l, t, r, b) is in the range of its level. Of several objects, the
    location learns the one with the smallest box; of equally small boxes, the first.

    Args:
        outputs: only their P locations are used.
        batch: B images with up to M objects.
        config: `center_sampling_radius`.
    """
    locations, radius = outputs.locations, config.center_sampling_radius
    cells = sum(math.prod(_window(grid, radius)) for grid in locations.grids)
    near = radius > 0 and cells <= _MAX_SHARE * len(locations.xy)
    match = match_near_centers if near else match_everywhere
    return assignment(locations, batch, *match(locations, batch, radius))


def match_everywhere(locations: Locations, batch: Targets, radius: float) -> tuple[Tensor, Tensor]:
    """Matches every location with every object, in O(B·P·M), in chunks of whole images.

    Returns:
        The object's index [B, P] int64, 0 if there is none, and whether there is one [B, P].
    """
    images, objects = batch.valid.shape
    step = max(1, _CHUNK // (len(locations.xy) * objects))
    index, positive = zip(
        *(
            _match(locations, batch.boxes[start : start + step], batch.valid[start : start + step], radius)
            for start in range(0, images, step)
        ),
        strict=True,
    )
    return torch.cat(index), torch.cat(positive)


def _match(locations: Locations, boxes: Tensor, valid: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    x, y = torch.unbind(locations.xy[:, None], dim=-1)  # [P, 1], broadcast with boxes [b, 1, M]
    x1, y1, x2, y2 = torch.unbind(boxes[:, None], dim=-1)
    candidate = contains(boxes[:, None], locations.xy[:, None]) & valid[:, None]
    if radius > 0:
        center_x, center_y = torch.unbind(_centers(boxes)[:, None], dim=-1)
        offset = torch.maximum((x - center_x).abs(), (y - center_y).abs())
        candidate &= offset < radius * locations.strides[:, None]
    size = torch.maximum(torch.maximum(x - x1, x2 - x), torch.maximum(y - y1, y2 - y))  # max(l, t, r, b)
    candidate &= (size > locations.ranges[:, :1]) & (size <= locations.ranges[:, 1:])
    # Infinity instead of 1e8 − area, which loses the difference of small areas in float32.
    smallest, index = area(boxes)[:, None].where(candidate, torch.inf).min(dim=-1)
    positive = smallest.isfinite()
    return index.where(positive, 0), positive


def match_near_centers(locations: Locations, batch: Targets, radius: float) -> tuple[Tensor, Tensor]:
    """Gives the result of `match_everywhere`, but searches only cells near the centers, in O(B·M·levels·window²).

    A location farther from the center than the radius cannot be positive.
    """
    cells, candidates, start = [], [], 0
    for grid in locations.grids:
        indices, candidate = _near(grid, batch.boxes, radius)
        cells.append(indices + start)
        candidates.append(candidate)
        start += grid.count
    candidate = torch.cat(candidates, dim=-1) & batch.valid[..., None]
    costs = area(batch.boxes)[..., None].where(candidate, torch.inf)
    return resolve(torch.cat(cells, dim=-1), costs, len(locations.xy))


def _near(grid: LevelGrid, boxes: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Indices of a level's cells near the centers of boxes [B, M, 4], and whether they are positive: [B, M, cells]."""
    centers = _centers(boxes)
    columns, rows = nearest_columns_and_rows(grid, centers, *_window(grid, radius))
    x, y = columns * grid.step_x + grid.first, rows * grid.step_y + grid.first
    inside_x, farthest_x = _along(x, boxes[..., 0], boxes[..., 2], centers[..., 0], radius * grid.stride)
    inside_y, farthest_y = _along(y, boxes[..., 1], boxes[..., 3], centers[..., 1], radius * grid.stride)
    size = torch.maximum(farthest_y[..., :, None], farthest_x[..., None, :])  # max(l, t, r, b)
    inside = inside_y[..., :, None] & inside_x[..., None, :]
    return cell_indices(grid, columns, rows), (inside & (size > grid.above) & (size <= grid.up_to)).flatten(-2)


def _along(xs: Tensor, low: Tensor, high: Tensor, center: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """On one axis: whether coordinates [B, M, n] are between two sides and near the center; the larger distance."""
    before, behind = xs - low[..., None], high[..., None] - xs
    inside = (torch.minimum(before, behind) > 0) & ((xs - center[..., None]).abs() < radius)
    return inside, torch.maximum(before, behind)


def _window(grid: LevelGrid, radius: float) -> tuple[int, int]:
    """Number of columns and rows that can have positive cells: those within the radius and one more for rounding."""
    width, height = (math.ceil(2 * radius * grid.stride / step) + 1 for step in (grid.step_x, grid.step_y))
    return min(width, grid.width), min(height, grid.height)


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2
