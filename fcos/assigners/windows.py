"""The cells of a regular grid that are nearest to a point."""

import torch
from torch import Tensor

from fcos.locations import LevelGrid


def nearest_columns_and_rows(grid: LevelGrid, centers: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The columns and rows of a level that are nearest to points, in increasing order.

    Args:
        centers: [..., 2] x, y in pixels.
        width, height: number of columns and rows; at most as many as the level has.

    Returns:
        int64 [..., ≤ width] and [..., ≤ height].
    """
    x, y = centers.unbind(dim=-1)
    return (
        _nearest((x - grid.first) / grid.step_x, grid.width, width),
        _nearest((y - grid.first) / grid.step_y, grid.height, height),
    )


def cell_indices(grid: LevelGrid, columns: Tensor, rows: Tensor) -> Tensor:
    """Indices [..., rows · columns] in the level of the cells in these columns and rows [..., n], increasing."""
    return (rows[..., :, None] * grid.width + columns[..., None, :]).flatten(-2)


def _nearest(positions: Tensor, cells: int, count: int) -> Tensor:
    """The integers in 0…cells − 1 nearest to positions [...]: [..., count]."""
    count = min(count, cells)
    start = (positions - count / 2).ceil().clamp(0, cells - count).long()
    return start[..., None] + torch.arange(count, device=positions.device)
