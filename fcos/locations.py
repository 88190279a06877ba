"""Locations: the image coordinates of the cells of each pyramid level, and the object sizes each level learns."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fcos.config import DEFAULT_RANGE

LocationMode = Literal["center", "corner", "torchvision"]


@dataclass(frozen=True)
class LevelGrid:
    """The cells of one level: cell (i, j), row and column, has the location (first + j·step_x, first + i·step_y)."""

    height: int  # cells
    width: int
    stride: int  # pixels
    step_x: int  # pixels between neighbors: the stride, except in torchvision's grid
    step_y: int
    first: float  # pixels: half a stride, or 0
    above: float  # object sizes that the level learns: above < max(l, t, r, b) ≤ up_to, in pixels
    up_to: float

    @property
    def count(self) -> int:
        """Number of cells."""
        return self.height * self.width

    def xy(self, device: torch.device | None = None) -> Tensor:
        """[height·width, 2] x, y in pixels, row by row."""
        y = torch.arange(self.height, device=device) * self.step_y + self.first
        x = torch.arange(self.width, device=device) * self.step_x + self.first
        return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2).float()


@dataclass(frozen=True)
class Locations:
    """The P locations of all levels in one list, finest level first, row by row."""

    xy: Tensor  # [P, 2] x, y in pixels of the network's input
    strides: Tensor  # [P] pixels
    ranges: Tensor  # [P, 2] object sizes max(l, t, r, b) that a location learns: above the first, up to the second
    grids: tuple[LevelGrid, ...]  # the levels

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of locations of each level."""
        return tuple(grid.count for grid in self.grids)


def size_ranges(strides: Sequence[int], ends: Sequence[float] | None = None) -> list[tuple[float, float]]:
    """The regression range of each level; the last has no upper end.

    Args:
        ends: upper ends of all levels but the last, in pixels; None: eight strides, which for strides 8 to 128 gives
            the paper's (0, 64], (64, 128], (128, 256], (256, 512], (512, ∞).
    """
    ends = [float(DEFAULT_RANGE * stride) for stride in strides[:-1]] if ends is None else list(ends)
    return list(zip([0.0, *ends], [*ends, math.inf], strict=True))


def make_locations(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    *,
    mode: LocationMode = "center",
    ends: Sequence[float] | None = None,
    device: torch.device | None = None,
) -> Locations:
    """Creates the locations of a pyramid.

    Args:
        shapes: height and width of each level in cells.
        strides: stride of each level in pixels.
        mode: `center`: cell (i, j) is at ((j + ½)·s, (i + ½)·s) (TPAMI paper, section 3.1); `corner`:
            (j·s, i·s); `torchvision`: (j·⌊W/w⌋, i·⌊H/h⌋) for an input of H×W, which differs from `corner` if the
            stride does not divide the input, and regression ranges that exclude their upper ends.
        ends: see `size_ranges`.
    """
    # The finest stride always divides the padded input.
    height, width = (side * strides[0] for side in shapes[0])
    grids = []
    for (h, w), stride, (above, up_to) in zip(shapes, strides, size_ranges(strides, ends), strict=True):
        like_torchvision = mode == "torchvision"
        grids.append(
            LevelGrid(
                height=h,
                width=w,
                stride=stride,
                step_x=width // w if like_torchvision else stride,
                step_y=height // h if like_torchvision else stride,
                first=stride / 2 if mode == "center" else 0.0,
                above=above,
                # The next smaller float32: max(l, t, r, b) ≤ up_to is then max(l, t, r, b) < end.
                up_to=float(np.nextafter(np.float32(up_to), np.float32(0)))
                if like_torchvision and not math.isinf(up_to)
                else up_to,
            )
        )
    # Created on the device: a copy from the host would have to wait for the GPU.
    return Locations(
        xy=torch.cat([grid.xy(device) for grid in grids]),
        strides=torch.cat([torch.full((grid.count,), float(grid.stride), device=device) for grid in grids]),
        ranges=torch.cat(
            [
                torch.stack([torch.full((grid.count,), end, device=device) for end in (grid.above, grid.up_to)], dim=-1)
                for grid in grids
            ]
        ),
        grids=tuple(grids),
    )
