"""Training on tiles: large images are cut while they are read, so that small objects are seen at their stored size."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.tiles import Tile, cut
from pipeline.errors import PipelineError
from pipeline.loading.dataset import Key, TrainingData, largest_factors, shuffle
from pipeline.loading.transforms import Sample, torch_generator
from pipeline.loading.transforms.sample import clip_visible
from pipeline.params import TileSize

_BLOCK_BYTES = 128 * 2**20  # of the images whose regions are shuffled together
_NUM_OTHERS = 3  # that a mosaic needs beside a region
_WHOLE = 0.999  # of an object's area: annotations and rounding may exceed an image's edges by a thousandth of a pixel


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedRegions:
    """The regions of N images, whole images and tiles, in a few arrays: see `PackedObjects`."""

    images: Tensor  # int64 [R] index of the image of each region
    borders: Tensor  # int64 [R, 4] x1, y1, x2, y2 in pixels of the stored image
    boxes: Tensor  # float32 [M, 4] x1, y1, x2, y2 in pixels of the region
    labels: Tensor  # int64 [M]
    starts: Tensor  # int64 [R + 1] region i has boxes[starts[i]:starts[i + 1]]


@dataclass(frozen=True)
class _Epoch:
    """What is drawn for an epoch."""

    number: int
    block_of: Tensor  # int64 [N]: the block of each image
    blocks: Sequence[Tensor]  # int64: the indices of the epoch's regions in each block


class TiledData(Dataset[Any]):
    """The images of a training set, and the tiles of those that are larger than a tile.

    In each epoch, every image occurs once as a whole, for objects that are larger than a tile, and once in each of its
    tiles with an object. Of the tiles without an object, a share is drawn for each epoch.

    So that each process that loads images decodes an image once for all of its tiles there, an epoch goes through the
    images in random order, in blocks of about `_BLOCK_BYTES`, and shuffles the regions of a block: batches of
    neighboring steps have regions of the same images, but in another composition in every epoch. Drawing a few tiles at
    each visit of an image would mix all images, but decode an image several times until all of its tiles have been
    seen. Mosaic and mixup combine a region with others of its block.

    An item's key is (epoch, index, repeat), as for `TrainingData`.

    Args:
        tiles: side in pixels, and overlap as a fraction: see `cut`.
        min_visibility: objects of which a smaller fraction of the area is inside a tile are left out of it.
        empty_tiles: the fraction of the tiles without objects that an epoch has.
    """

    keeps_neighbors = True

    def __init__(self, data: TrainingData, tiles: TileSize, *, min_visibility: float, empty_tiles: float) -> None:
        self.data, self.augmentation, self.cache = data, data.augmentation, None
        if data.cache:
            raise PipelineError("machine.cache: its images have the size train.size, and tiles don't: set it to false")
        self._regions = _cut_images(data, tiles, min(min_visibility, _WHOLE))
        is_tile = torch.cat([torch.zeros(1, dtype=torch.bool), self._regions.images.diff() == 0])
        is_empty = is_tile & (self.object_counts == 0)
        self._always, self._empty = (~is_empty).nonzero().squeeze(1), is_empty.nonzero().squeeze(1)
        self._num_empty = round(empty_tiles * len(self._empty))
        self._num_bytes = 3 * data.shapes.prod(dim=1)
        self._decoded: OrderedDict[int, Tensor] = OrderedDict()
        self._epoch: _Epoch | None = None

    @property
    def object_counts(self) -> Tensor:
        """int64 [R]: the number of objects of each region."""
        return self._regions.starts.diff()

    @property
    def shapes(self) -> Tensor:
        """int64 [R, 2]: height and width of each region."""
        borders = self._regions.borders
        return (borders[:, 2:] - borders[:, :2]).flip(1)

    @property
    def image_indices(self) -> Tensor:
        """int64 [R]: the position in the split of each region's image."""
        return self.data.image_indices[self._regions.images]

    @property
    def epoch_length(self) -> int:
        """The number of regions in an epoch."""
        return len(self._always) + self._num_empty

    @property
    def num_decoded(self) -> int:
        """The number of images in memory."""
        return len(self._decoded)

    def order(self, epoch: int, generator: torch.Generator, repeat_factors: Tensor | None = None) -> Tensor:
        """int64: the indices of an epoch's regions, as in `TrainingData`; those of the same images near each other."""
        return torch.cat([shuffle(block, repeat_factors, generator) for block in self._draw(epoch).blocks])

    def _draw(self, epoch: int) -> "_Epoch":
        """The regions and blocks of an epoch: the same in every process, without being sent to it."""
        if self._epoch is None or self._epoch.number != epoch:
            generator = torch_generator(self.augmentation.seed, epoch, "regions")
            empty = self._empty[torch.randperm(len(self._empty), generator=generator)[: self._num_empty]]
            images = torch.randperm(len(self.data), generator=generator)
            num_bytes, block_of = self._num_bytes[images], torch.empty_like(images)
            block_of[images] = (num_bytes.cumsum(0) - num_bytes) // _BLOCK_BYTES
            regions = torch.cat([self._always, empty])
            blocks, order = block_of[self._regions.images[regions]].sort(stable=True)
            self._epoch = _Epoch(epoch, block_of, regions[order].split_with_sizes(blocks.bincount().tolist()))
        return self._epoch

    def _with_others(self, epoch: int, index: int) -> list[int]:
        """A region, and those that it can be combined with: the epoch's in its block, or all if they are too few."""
        drawn = self._draw(epoch)
        near = drawn.blocks[int(drawn.block_of[self._regions.images[index]])]
        regions = near if len(near) > _NUM_OTHERS else torch.cat([*drawn.blocks])
        return [index, *regions[regions != index].tolist()]

    def repeat_factors(self, threshold: float) -> Tensor:
        """float64 [R]: how often to draw each region, by the shares of images that have its classes."""
        return largest_factors(self, self.data.class_factors(threshold))

    def __len__(self) -> int:
        return len(self._regions.images)

    def __getitem__(self, item: Key) -> Sample:
        epoch, index, repeat = item
        regions = self._with_others(epoch, index)
        sample = self.augmentation(lambda number: self.read(regions[number]), len(regions), epoch, 0, repeat)
        return replace(sample, name=self.name(index), annotated=len(self.objects(index)[1]))

    def name(self, index: int) -> str:
        """The file name of a region's image; of a tile with its left, top, right and bottom border."""
        name, borders = self.data.name(int(self._regions.images[index])), self._regions.borders[index].tolist()
        height, width = self.data.shapes[self._regions.images[index]].tolist()
        return name if borders == [0, 0, width, height] else f"{name} {borders}"

    def objects(self, index: int) -> tuple[Tensor, Tensor]:
        """The boxes, [m, 4] in pixels of the region, and the labels, [m], of a region."""
        objects = slice(int(self._regions.starts[index]), int(self._regions.starts[index + 1]))
        return self._regions.boxes[objects], self._regions.labels[objects]

    def read(self, index: int) -> Sample:
        """A region with its objects, as stored."""
        image = self._decode(int(self._regions.images[index]))
        tile = Tile(*self._regions.borders[index].tolist())
        return Sample(tile.crop(image), *self.objects(index), self.name(index))

    def _decode(self, image: int) -> Tensor:
        """A stored image. The images of up to two blocks stay in memory, since a step may have regions of both."""
        if image not in self._decoded:
            self._decoded[image] = self.data.read(image).image
        self._decoded.move_to_end(image)
        limit = 2 * (_BLOCK_BYTES + int(self._num_bytes.max()))  # a block ends with the image that exceeds its bytes
        while sum(item.numel() for item in self._decoded.values()) > limit:
            self._decoded.popitem(last=False)
        return self._decoded[image]


def _cut_images(data: TrainingData, tiles: TileSize, min_visibility: float) -> PackedRegions:
    parts = [(index, *part) for index in range(len(data)) for part in _cut_image(data, index, tiles, min_visibility)]
    images, borders, boxes, labels = zip(*parts, strict=True)
    return PackedRegions(
        images=torch.tensor(images),
        borders=torch.tensor([(tile.x1, tile.y1, tile.x2, tile.y2) for tile in borders]),
        boxes=torch.cat(boxes),
        labels=torch.cat(labels),
        starts=torch.tensor([0, *map(len, boxes)]).cumsum(0),
    )


def _cut_image(
    data: TrainingData, index: int, tiles: TileSize, min_visibility: float
) -> Iterator[tuple[Tile, Tensor, Tensor]]:
    """The whole image and its tiles, each with boxes and labels of the objects that are visible in it."""
    boxes, labels = data.objects(index)
    height, width = data.shapes[index].tolist()
    whole, *parts = cut(height, width, *tiles)
    yield whole, boxes, labels
    if not parts:
        return
    borders = torch.tensor([(tile.x1, tile.y1, tile.x2, tile.y2) for tile in parts], dtype=torch.float32)[:, None]
    moved = boxes - borders[..., :2].repeat(1, 1, 2)  # [tiles, objects, 4]
    clipped, visible = clip_visible(moved, borders[..., 2:] - borders[..., :2], min_visibility)
    for tile, tile_boxes, is_visible in zip(parts, clipped, visible, strict=True):
        yield tile, tile_boxes[is_visible], labels[is_visible]
