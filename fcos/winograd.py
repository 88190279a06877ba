"""3×3 convolutions in fewer multiplications, by Winograd's minimal filtering (Lavin and Gray, 1509.09308, section 4).

F(4×4, 3×3): a tile of 4×4 outputs from 6×6 inputs takes 36 multiplications a channel pair, not 144. In float32 its
rounding is some six times a plain convolution's. Every step is a matrix product, so that the machine's own library does
the work; going backward, the same products turned around, which save as much.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_TILE, _PATCH = 4, 6  # outputs and inputs of a tile, along one side
# Numbers of one group's patches: small enough that the allocator gives the same memory again, without page faults.
_CHUNK = 2**22
# The paper's matrices for points 0, ±1, ±2 and infinity: of the input, of the weight and of the output.
_INPUT: list[list[float]] = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_WEIGHT: list[list[float]] = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_OUTPUT: list[list[float]] = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]


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
    return sum(math.prod(shape) for shape in _tiled(levels))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor | None, *levels: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(weight, *levels)
        maps = [_blank(level.shape, len(weight), weight, more=0) for level in levels]
        transformed = _of_weight(weight)
        for group in _groups(levels, max(weight.shape[:2])):
            products = torch.bmm(_of_inputs(_each(levels, group)), transformed)
            sums = torch.mm(_matrix(_OUTPUT, weight), products.flatten(1))
            _write(sums.view(_TILE, _TILE, -1, len(weight)), _each([_by_tiles(one) for one in maps], group), bias)
        return tuple(_cut(one, 0, level.shape) for one, level in zip(maps, levels, strict=True))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        weight, *levels = ctx.saved_tensors
        outputs, inputs = weight.shape[:2]
        transformed = _of_weight(weight).transpose(1, 2)
        change = weight.new_zeros(_PATCH**2, inputs, outputs)
        learns, wanted = ctx.needs_input_grad[0], any(ctx.needs_input_grad[2:])
        maps = [_blank(level.shape, inputs, weight, more=1).zero_() for level in levels] if wanted else []
        for group in _groups(levels, max(inputs, outputs)):
            of_products = _of_outputs(_each(slopes, group))
            if learns:
                # Made again, not kept: they are more than twice as large as the inputs.
                change.baddbmm_(_of_inputs(_each(levels, group)).transpose(1, 2), of_products)
            if wanted:
                patches = torch.mm(_matrix(_INPUT, weight).t(), torch.bmm(of_products, transformed).flatten(1))
                _add(patches.view(_PATCH, _PATCH, -1, inputs), _each([_by_tiles(one) for one in maps], group))
        to_levels: list[Tensor | None] = [None] * len(levels)
        if wanted:
            to_levels = [_cut(one, 1, level.shape) for one, level in zip(maps, levels, strict=True)]
        bias = torch.stack([slope.sum(dim=(0, 2, 3)) for slope in slopes]).sum(dim=0)
        return _to_weight(change, weight) if learns else None, bias if ctx.needs_input_grad[1] else None, *to_levels


def _groups(levels: Sequence[Tensor], channels: int) -> list[list[tuple[int, int]]]:
    """Levels and images (their places) that are worked through together."""
    groups: list[list[tuple[int, int]]] = [[]]
    size = 0
    for place, level in enumerate(levels):
        tiled = math.prod(_grid(level.shape)) * channels * _PATCH**2
        for image in range(len(level)):
            if groups[-1] and size + tiled > _CHUNK:
                groups.append([])
                size = 0
            groups[-1].append((place, image))
            size += tiled
    return groups


def _each(levels: Sequence[Tensor], group: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The group's parts, of one image each."""
    return [levels[place][image : image + 1] for place, image in group]


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
    for level, place in zip(levels, _split(patches, _tiled(levels)), strict=True):
        height, width = (side * _TILE for side in _grid(level.shape))
        around = (0, 0, 1, width + 1 - level.shape[3], 1, height + 1 - level.shape[2])
        padded = F.pad(level.permute(0, 2, 3, 1), around)
        place.copy_(padded.unfold(1, _PATCH, _TILE).unfold(2, _PATCH, _TILE).permute(4, 5, 0, 1, 2, 3))
    return torch.mm(_matrix(_INPUT, patches), patches.view(_PATCH**2, -1)).view(_PATCH**2, -1, channels)


def _of_outputs(slopes: Sequence[Tensor]) -> Tensor:
    """Slopes of the outputs [B, K, h, w] to those of the products [36, tiles, K]."""
    channels = slopes[0].shape[1]
    cells = slopes[0].new_empty(_TILE, _TILE, tiles(slopes), channels)
    for slope, place in zip(slopes, _split(cells, _tiled(slopes)), strict=True):
        rows, columns = _grid(slope.shape)
        below = (0, 0, 0, columns * _TILE - slope.shape[3], 0, rows * _TILE - slope.shape[2])
        whole = F.pad(slope.permute(0, 2, 3, 1), below)
        place.copy_(whole.reshape(-1, rows, _TILE, columns, _TILE, channels).permute(2, 4, 0, 1, 3, 5))
    return torch.mm(_matrix(_OUTPUT, cells).t(), cells.view(_TILE**2, -1)).view(_PATCH**2, -1, channels)


def _to_weight(change: Tensor, weight: Tensor) -> Tensor:
    """The slope of a transformed weight [36, C, K] to the weight's [K, C, 3, 3]."""
    flat = torch.mm(_matrix(_WEIGHT, weight).t(), change.flatten(1))
    return flat.view(3, 3, *change.shape[1:]).permute(3, 2, 0, 1)


def _write(cells: Tensor, places: Sequence[Tensor], bias: Tensor | None) -> None:
    """Tiles' outputs [4, 4, tiles, K], with the bias, to where they belong: [B, rows, 4, columns, 4, K] each."""
    for part, place in zip(_split(cells, [(len(p), p.shape[1], p.shape[3]) for p in places]), places, strict=True):
        ordered = part.permute(2, 3, 0, 4, 1, 5)
        place.copy_(ordered) if bias is None else torch.add(ordered, bias, out=place)


def _add(patches: Tensor, places: Sequence[Tensor]) -> None:
    """Patches' slopes [6, 6, tiles, C] to where they belong: neighbours' patches overlap by two cells.

    Args:
        places: zeros [B, rows + 1, 4, columns + 1, 4, C] each.
    """
    shapes = [(len(place), place.shape[1] - 1, place.shape[3] - 1) for place in places]
    for part, place in zip(_split(patches, shapes), places, strict=True):
        ordered = part.permute(2, 3, 0, 4, 1, 5)  # [B, rows, 6, columns, 6, C]
        place[:, :-1, :, :-1] = ordered[:, :, :_TILE, :, :_TILE]
        place[:, 1:, :2, :-1] += ordered[:, :, _TILE:, :, :_TILE]
        place[:, :-1, :, 1:, :2] += ordered[:, :, :_TILE, :, _TILE:]
        place[:, 1:, :2, 1:, :2] += ordered[:, :, _TILE:, :, _TILE:]


def _blank(shape: torch.Size, channels: int, like: Tensor, *, more: int) -> Tensor:
    """An empty map of as many whole tiles as `shape` takes, and so many rows and columns of them more."""
    rows, columns = (side + more for side in _grid(shape))
    size = (shape[0], channels, rows * _TILE, columns * _TILE)
    return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _by_tiles(whole: Tensor) -> Tensor:
    """[B, C, 4·rows, 4·columns] in channels_last as [B, rows, 4, columns, 4, C]."""
    images, channels, height, width = whole.shape
    return whole.permute(0, 2, 3, 1).view(images, height // _TILE, _TILE, width // _TILE, _TILE, channels)


def _cut(whole: Tensor, start: int, shape: torch.Size) -> Tensor:
    """The height and width of `shape`, from row and column `start` on; never a view, which relu couldn't change."""
    if whole.shape[2:] == shape[2:]:
        return whole
    part = whole[..., start : start + shape[2], start : start + shape[3]]
    return part.clone(memory_format=torch.channels_last)


def _split(tiled: Tensor, shapes: Sequence[tuple[int, int, int]]) -> list[Tensor]:
    """[n, n, tiles, C] to parts [n, n, B, rows, columns, C] of these B, rows and columns."""
    parts = torch.split(tiled, [math.prod(shape) for shape in shapes], dim=2)
    return [part.view(*part.shape[:2], *shape, -1) for part, shape in zip(parts, shapes, strict=True)]


def _grid(shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of tiles on a map [B, C, h, w]."""
    return -(-shape[2] // _TILE), -(-shape[3] // _TILE)


def _tiled(levels: Sequence[Tensor]) -> list[tuple[int, int, int]]:
    """Each level's images, rows and columns of tiles."""
    return [(len(level), *_grid(level.shape)) for level in levels]
