"""3×3 convolutions in fewer multiplications, by Winograd's minimal filtering (Lavin and Gray, 1509.09308, section 4).

F(4×4, 3×3): a tile of 4×4 outputs from 6×6 inputs takes 36 multiplications a channel pair, not 144. In float32 its
rounding is some six times a plain convolution's. Every step is a matrix product, so that the machine's own library does
the work; going backward, the same products turned around, which save as much.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE, _PATCH = 4, 6  # outputs and inputs of a tile, along one side
# The paper's matrices for points 0, ±1, ±2 and infinity: of the input, of the weight and of the output.
_INPUT = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_WEIGHT = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


def convolve(levels: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """What `F.conv2d(level, weight, bias, padding=1)` gives for each level, but for rounding.

    Args:
        levels: [B, C, h, w] each; best in channels_last.
        weight: [K, C, 3, 3].
        bias: [K].

    Returns:
        [B, K, h, w] each, in channels_last.
    """
    return list(_Convolution.apply(weight, bias, *levels))


def tiles(levels: Sequence[Tensor]) -> int:
    """Tiles of 4×4 that the levels are worked through in."""
    return sum(_count(level.shape) for level in levels)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, *levels: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(weight, *levels)
        products = torch.bmm(_of_inputs(levels), _of_weight(weight))
        sums = torch.mm(_matrix(_OUTPUT, weight), products.flatten(1))
        return tuple(_to_maps(sums.view(_TILE, _TILE, -1, len(weight)), [level.shape for level in levels], bias))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        weight, *levels = ctx.saved_tensors
        of_products = _of_outputs(slopes)
        to_weight = to_bias = None
        to_levels: Sequence[Tensor | None] = [None] * len(levels)
        if ctx.needs_input_grad[0]:
            # Made again, not kept: they are more than twice as large as the inputs.
            change = torch.bmm(_of_inputs(levels).transpose(1, 2), of_products)
            change = torch.mm(_matrix(_WEIGHT, weight).t(), change.flatten(1))
            to_weight = change.view(3, 3, *reversed(weight.shape[:2])).permute(3, 2, 0, 1)
        if ctx.needs_input_grad[1]:
            to_bias = torch.stack([slope.sum(dim=(0, 2, 3)) for slope in slopes]).sum(dim=0)
        if any(ctx.needs_input_grad[2:]):
            patches = torch.bmm(of_products, _of_weight(weight).transpose(1, 2))
            patches = torch.mm(_matrix(_INPUT, weight).t(), patches.flatten(1))
            to_levels = _added_up(patches.view(_PATCH, _PATCH, -1, weight.shape[1]), [level.shape for level in levels])
        return to_weight, to_bias, *to_levels


def _matrix(one: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """For rows and columns at once: [a, b] to [a², b²]."""
    matrix = like.new_tensor(one)
    return torch.kron(matrix, matrix)


def _of_weight(weight: Tensor) -> Tensor:
    """[K, C, 3, 3] to [36, C, K]."""
    outputs, inputs = weight.shape[:2]
    flat = weight.permute(2, 3, 1, 0).reshape(9, inputs * outputs)
    return torch.mm(_matrix(_WEIGHT, weight), flat).view(-1, inputs, outputs)


def _of_inputs(levels: Sequence[Tensor]) -> Tensor:
    """Levels [B, C, h, w] to [36, tiles, C]."""
    channels = levels[0].shape[1]
    patches = levels[0].new_empty(_PATCH, _PATCH, tiles(levels), channels)
    for level, place in zip(levels, _split(patches, [level.shape for level in levels]), strict=True):
        height, width = (side * _TILE for side in _grid(level.shape))
        around = (0, 0, 1, width + 1 - level.shape[3], 1, height + 1 - level.shape[2])
        padded = F.pad(level.permute(0, 2, 3, 1), around)
        place.copy_(padded.unfold(1, _PATCH, _TILE).unfold(2, _PATCH, _TILE).permute(4, 5, 0, 1, 2, 3))
    return torch.mm(_matrix(_INPUT, patches), patches.view(_PATCH**2, -1)).view(_PATCH**2, -1, channels)


def _of_outputs(slopes: Sequence[Tensor]) -> Tensor:
    """Slopes of the outputs [B, K, h, w] to those of the products [36, tiles, K]."""
    channels = slopes[0].shape[1]
    cells = slopes[0].new_empty(_TILE, _TILE, tiles(slopes), channels)
    for slope, place in zip(slopes, _split(cells, [slope.shape for slope in slopes]), strict=True):
        rows, columns = _grid(slope.shape)
        below = (0, 0, 0, columns * _TILE - slope.shape[3], 0, rows * _TILE - slope.shape[2])
        whole = F.pad(slope.permute(0, 2, 3, 1), below)
        place.copy_(whole.reshape(-1, rows, _TILE, columns, _TILE, channels).permute(2, 4, 0, 1, 3, 5))
    return torch.mm(_matrix(_OUTPUT, cells).t(), cells.view(_TILE**2, -1)).view(_PATCH**2, -1, channels)


def _to_maps(cells: Tensor, shapes: Sequence[torch.Size], bias: Tensor | None) -> list[Tensor]:
    """Tiles' outputs [4, 4, tiles, K] to maps [B, K, h, w], cut to their sizes, with the bias."""
    maps = []
    for part, shape in zip(_split(cells, shapes), shapes, strict=True):
        rows, columns = _grid(shape)
        whole = cells.new_empty(shape[0], rows, _TILE, columns, _TILE, cells.shape[-1])
        ordered = part.permute(2, 3, 0, 4, 1, 5)
        whole.copy_(ordered) if bias is None else torch.add(ordered, bias, out=whole)
        maps.append(_cut(whole.flatten(3, 4).flatten(1, 2), 0, shape))
    return maps


def _added_up(patches: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Patches' slopes [6, 6, tiles, C] to those of the maps [B, C, h, w]: neighbours' patches overlap by two cells."""
    maps = []
    for part, shape in zip(_split(patches, shapes), shapes, strict=True):
        rows, columns = _grid(shape)
        ordered = part.permute(2, 3, 0, 4, 1, 5)  # [B, rows, 6, columns, 6, C]
        whole = patches.new_zeros(shape[0], rows + 1, _TILE, columns + 1, _TILE, patches.shape[-1])
        whole[:, :-1, :, :-1] = ordered[:, :, :_TILE, :, :_TILE]
        whole[:, 1:, :2, :-1] += ordered[:, :, _TILE:, :, :_TILE]
        whole[:, :-1, :, 1:, :2] += ordered[:, :, :_TILE, :, _TILE:]
        whole[:, 1:, :2, 1:, :2] += ordered[:, :, _TILE:, :, _TILE:]
        maps.append(_cut(whole.flatten(3, 4).flatten(1, 2), 1, shape))
    return maps


def _cut(whole: Tensor, start: int, shape: torch.Size) -> Tensor:
    """[B, H, W, C] to [B, C, h, w] of `shape`'s height and width, from row and column `start` on, in channels_last."""
    part = whole[:, start : start + shape[2], start : start + shape[3]]
    return part.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _split(tiled: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """[n, n, tiles, C] to each level's [n, n, B, rows, columns, C]."""
    parts = tiled.split([_count(shape) for shape in shapes], dim=2)
    return [part.unflatten(2, (shape[0], *_grid(shape))) for part, shape in zip(parts, shapes, strict=True)]


def _grid(shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of tiles on a map [B, C, h, w]."""
    return -(-shape[2] // _TILE), -(-shape[3] // _TILE)


def _count(shape: torch.Size) -> int:
    rows, columns = _grid(shape)
    return shape[0] * rows * columns
