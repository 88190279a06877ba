"""Which cells of a regular grid lie nearest to a point."""

import torch
from torch import Tensor

from fcos.locations import LevelGrid


def columns_and_rows(grid: LevelGrid, centers: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The columns and the rows of a level's cells that are nearest to points, in rising order.

    Args:
        centers: [..., 2] x, y in pixels.
        width, height: how many columns and rows; fewer where the level has fewer.

    Returns:
        int64 [..., ≤ width] and [..., ≤ height].
    """
    x, y = centers.unbind(dim=-1)
    return (
        _nearest((x - grid.first) / grid.step_x, grid.width, width),
        _nearest((y - grid.first) / grid.step_y, grid.height, height),
    )


def places(grid: LevelGrid, columns: Tensor, rows: Tensor) -> Tensor:
    """Places [..., rows · columns] in the level's list of the cells where columns and rows [..., n] meet, rising."""
    return (rows[..., :, None] * grid.width + columns[..., None, :]).flatten(-2)


def _nearest(positions: Tensor, cells: int, count: int) -> Tensor:
    """The whole numbers of 0…cells − 1 nearest to positions [...]: [..., count]."""
    count = min(count, cells)
    start = (positions - count / 2).ceil().clamp(0, cells - count).long()
    return start[..., None] + torch.arange(count, device=positions.device)
