"""FCOS: a location learns the smallest of the objects around it whose size its level answers for."""

import math

import torch
from torch import Tensor

from fcos.assigners.conflicts import assignment, resolve
from fcos.assigners.windows import columns_and_rows, places
from fcos.config import ModelConfig
from fcos.locations import LevelGrid, Locations
from fcos.ops.boxes import area, contains
from fcos.structures import Assignment, Outputs, Targets

# Pairs of location and object in one chunk. Hundreds of objects in each of many images must not exhaust memory.
_CHUNK = 2**22
# Looking near the centers alone pays, and needs little memory, while it leaves out most of the pyramid.
_WORTHWHILE = 1 / 8


def assign_fcos(outputs: Outputs, batch: Targets, config: ModelConfig) -> Assignment:
    """FCOS assignment with center sampling (ICCV paper, section 3.1; TPAMI, section 3.2).

    A location is positive for an object when it lies inside its box, within `config.center_sampling_radius` strides of
    the box's center (0: anywhere in the box), and max(l, t, r, b) is in its level's range. Of several objects, the one
    with the smallest box wins; of equally small boxes, the first.

    Args:
        outputs: their P locations alone are used.
        batch: B images of up to M objects.
    """
    locations, radius = outputs.locations, config.center_sampling_radius
    cells = sum(math.prod(_window(grid, radius)) for grid in locations.grids)
    near = radius > 0 and cells <= _WORTHWHILE * len(locations.xy)
    match = match_near_centers if near else match_everywhere
    return assignment(locations, batch, *match(locations, batch, radius))


def match_everywhere(locations: Locations, batch: Targets, radius: float) -> tuple[Tensor, Tensor]:
    """Compares every location with every object: the index of each one's object [B, P], and whether it has one.

    O(B·P·M), in chunks of whole images.
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
    x, y = torch.unbind(locations.xy[:, None], dim=-1)  # [P, 1], against boxes' [b, 1, M]
    x1, y1, x2, y2 = torch.unbind(boxes[:, None], dim=-1)
    candidate = contains(boxes[:, None], locations.xy[:, None]) & valid[:, None]
    if radius > 0:
        center_x, center_y = torch.unbind(_centers(boxes)[:, None], dim=-1)
        offset = torch.maximum((x - center_x).abs(), (y - center_y).abs())
        candidate &= offset < radius * locations.strides[:, None]
    size = torch.maximum(torch.maximum(x - x1, x2 - x), torch.maximum(y - y1, y2 - y))  # max(l, t, r, b)
    candidate &= (size > locations.ranges[:, :1]) & (size <= locations.ranges[:, 1:])
    # Infinity, not 1e8 − area: in float32 that loses the difference of small areas.
    smallest, index = area(boxes)[:, None].where(candidate, torch.inf).min(dim=-1)
    positive = smallest.isfinite()
    return index.where(positive, 0), positive


def match_near_centers(locations: Locations, batch: Targets, radius: float) -> tuple[Tensor, Tensor]:
    """What `match_everywhere` gives, looking only at the few cells of each level near each object's center.

    O(B·M·levels·window²): a location further away than the radius can't be positive, and a grid tells which aren't.
    """
    cells, candidates, start = [], [], 0
    for grid in locations.grids:
        place, candidate = _near(grid, batch.boxes, radius)
        cells.append(place + start)
        candidates.append(candidate)
        start += grid.count
    candidate = torch.cat(candidates, dim=-1) & batch.valid[..., None]
    costs = area(batch.boxes)[..., None].where(candidate, torch.inf)
    return resolve(torch.cat(cells, dim=-1), costs, len(locations.xy))


def _near(grid: LevelGrid, boxes: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """A level's cells near the centers of boxes [B, M, 4], and which of them are positive: both [B, M, cells]."""
    centers = _centers(boxes)
    columns, rows = columns_and_rows(grid, centers, *_window(grid, radius))
    x, y = columns * grid.step_x + grid.first, rows * grid.step_y + grid.first
    inside_x, furthest_x = _along(x, boxes[..., 0], boxes[..., 2], centers[..., 0], radius * grid.stride)
    inside_y, furthest_y = _along(y, boxes[..., 1], boxes[..., 3], centers[..., 1], radius * grid.stride)
    size = torch.maximum(furthest_y[..., :, None], furthest_x[..., None, :])  # max(l, t, r, b)
    inside = inside_y[..., :, None] & inside_x[..., None, :]
    return places(grid, columns, rows), (inside & (size > grid.above) & (size <= grid.up_to)).flatten(-2)


def _along(places: Tensor, low: Tensor, high: Tensor, center: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Along one axis: whether places [B, M, n] lie between two sides and near the center, and the further side."""
    before, behind = places - low[..., None], high[..., None] - places
    inside = (torch.minimum(before, behind) > 0) & ((places - center[..., None]).abs() < reach)
    return inside, torch.maximum(before, behind)


def _window(grid: LevelGrid, radius: float) -> tuple[int, int]:
    """Columns and rows that may hold positive cells: those within the radius, and one for rounding."""
    width, height = (math.ceil(2 * radius * grid.stride / step) + 1 for step in (grid.step_x, grid.step_y))
    return min(width, grid.width), min(height, grid.height)


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2
