"""Where each pyramid level's cells look, and which object sizes they answer for."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Points:
    """All levels' locations in one list of P, finest level first, row by row."""

    locations: Tensor  # [P, 2] x, y in pixels of the network's input
    strides: Tensor  # [P] pixels
    ranges: Tensor  # [P, 2] the object sizes max(l, t, r, b) that a location learns: above the first, up to the second
    counts: tuple[int, ...]  # locations of each level


def level_locations(height: int, width: int, stride: int, device: torch.device | None = None) -> Tensor:
    """Centres of a level's cells: cell (i, j) looks at ((j + ½)·stride, (i + ½)·stride) (TPAMI paper, section 3.1).

    Returns:
        [height·width, 2] x, y in pixels.
    """
    y = (torch.arange(height, device=device) + 0.5) * stride
    x = (torch.arange(width, device=device) + 0.5) * stride
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)


def size_ranges(strides: Sequence[int]) -> list[tuple[float, float]]:
    """Each level's regression range: up to eight strides, from where the level below ends; the last has no end.

    For strides 8 to 128 these are the paper's (0, 64], (64, 128], (128, 256], (256, 512], (512, ∞).
    """
    ends = [8.0 * stride for stride in strides[:-1]]
    return list(zip([0.0, *ends], [*ends, float("inf")], strict=True))


def points(shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device | None = None) -> Points:
    """The locations of a pyramid whose levels have these heights and widths in cells."""
    levels = [level_locations(h, w, s, device) for (h, w), s in zip(shapes, strides, strict=True)]
    counts = tuple(len(level) for level in levels)
    # Filled on the device: a copy from the host would make a GPU wait.
    per_level = list(zip(counts, strides, size_ranges(strides), strict=True))
    return Points(
        locations=torch.cat(levels),
        strides=torch.cat([torch.full((count,), float(stride), device=device) for count, stride, _ in per_level]),
        ranges=torch.cat(
            [
                torch.stack([torch.full((count,), end, device=device) for end in ends], dim=-1)
                for count, _, ends in per_level
            ]
        ),
        counts=counts,
    )
