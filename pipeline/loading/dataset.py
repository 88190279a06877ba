"""The images and objects of a split for training, in arrays that worker processes share."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.boxes import box_tensor
from pipeline.data.images import read_image
from pipeline.errors import PipelineError, count_noun
from pipeline.loading.cache import ImageCache
from pipeline.loading.transforms import Augmentation, Sample, torch_generator

Key = tuple[int, int, int]  # epoch, index, and how often the epoch has had the index before


class PackedStrings(Sequence[str]):
    """A sequence of strings in a single buffer."""

    def __init__(self, strings: Iterable[str]) -> None:
        encoded = [string.encode() for string in strings]
        self._buffer = b"".join(encoded)
        self._offsets = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, index: Any) -> Any:
        return self._buffer[self._offsets[index] : self._offsets[index + 1]].decode()


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedObjects:
    """The trainable objects of N images, in a few arrays.

    Forked processes share memory until one of them writes to it. Reading a Python object updates its reference count,
    which triggers copy-on-write: with an object per name and box, every worker would end up with a copy of all of them.
    """

    names: PackedStrings  # N file names
    shapes: Tensor  # int64 [N, 2] height, width
    has_crowd: Tensor  # bool [N]
    boxes: Tensor  # float32 [M, 4] x1, y1, x2, y2
    labels: Tensor  # int64 [M] 0…K−1
    starts: Tensor  # int64 [N + 1] image i has boxes[starts[i]:starts[i + 1]]


def _pack(split: AnnotationSet, *, include_difficult: bool) -> PackedObjects:
    label_of, groups = split.label_of(), split.by_image()
    per_image = [trainable_annotations(groups[image.id], include_difficult=include_difficult) for image in split.images]
    objects = [annotation for annotations in per_image for annotation in annotations]
    return PackedObjects(
        names=PackedStrings(image.file_name for image in split.images),
        shapes=torch.tensor([(image.height, image.width) for image in split.images]).view(-1, 2),
        has_crowd=torch.tensor([any(a.iscrowd for a in groups[image.id]) for image in split.images], dtype=torch.bool),
        boxes=box_tensor(objects),
        labels=torch.tensor([label_of[annotation.category_id] for annotation in objects], dtype=torch.int64),
        starts=torch.tensor([0, *map(len, per_image)]).cumsum(0),
    )


def trainable_annotations(annotations: Sequence[Annotation], *, include_difficult: bool) -> list[Annotation]:
    """The annotations that training uses: no crowds, since their boxes contain several objects.

    Args:
        include_difficult: whether to keep objects that are marked as difficult.
    """
    return [a for a in annotations if not a.iscrowd and (include_difficult or not a.difficult)]


class TrainingData(Dataset[Any]):
    """The images of a split, or some of them, with the objects that `trainable_annotations` returns.

    An item's key is (epoch, index, repeat), and the item is the augmented image: see `Key`.

    Args:
        folder: the folder that file names are relative to.
        include_difficult: whether objects that are marked as difficult are trained on.
        include_empty: whether images without trainable objects are used.
        include_crowd: whether images with a crowd are used.
        cache: a cache of all images of the split. `read` then returns images at the cache's size, and zooms start from
            there: without crops and zooms the pixels are the same as without a cache, with them they differ slightly.

    Raises:
        PipelineError: the images contain no trainable object.
    """

    def __init__(
        self,
        split: AnnotationSet,
        folder: Path,
        *,
        augmentation: Augmentation,
        include_difficult: bool,
        include_empty: bool,
        include_crowd: bool = True,
        cache: ImageCache | None = None,
    ) -> None:
        self.folder, self.augmentation, self.cache = folder, augmentation, cache
        self._split = objects = _pack(split, include_difficult=include_difficult)
        usable = (include_empty | (objects.starts.diff() > 0)) & (include_crowd | ~objects.has_crowd)
        self._image_indices = usable.nonzero().squeeze(1)
        self._check_objects()

    def _check_objects(self) -> None:
        if not self.object_counts.any():
            raise PipelineError(f"{self.folder}: {count_noun(len(self), 'image')} without a single object to train on")

    def subset(self, indices: Sequence[int] | Tensor) -> "TrainingData":
        """The images at these indices, in this order.

        Raises:
            PipelineError: they contain no trainable object.
        """
        result = copy(self)
        result._image_indices = self._image_indices[torch.as_tensor(indices, dtype=torch.int64)]
        result._check_objects()
        return result

    def random_subset(self, count: int, seed: int) -> "TrainingData":
        """At most `count` images, chosen by the seed; a smaller subset is contained in a larger one."""
        chosen = torch.randperm(len(self), generator=torch_generator(seed, "limit"))[:count]
        return self.subset(chosen.sort().values)

    @property
    def image_indices(self) -> Tensor:
        """int64 [N]: the position of each image in the split."""
        return self._image_indices

    @property
    def object_counts(self) -> Tensor:
        """int64 [N]: the number of trainable objects of each image."""
        return self._split.starts.diff()[self._image_indices]

    @property
    def shapes(self) -> Tensor:
        """int64 [N, 2]: height and width of each stored image."""
        return self._split.shapes[self._image_indices]

    @property
    def epoch_length(self) -> int:
        """The number of items in an epoch: all images."""
        return len(self)

    keeps_neighbors = False  # whether items that are near each other in `order` should stay so

    def order(self, epoch: int, generator: torch.Generator, repeat_factors: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """int64: the indices of an epoch's items, shuffled; with factors for each item, some of them several times."""
        return shuffle(torch.arange(len(self)), repeat_factors, generator)

    def repeat_factors(self, threshold: float) -> Tensor:
        """How often to draw each image, so that rare classes are seen more often (LVIS, 1908.03195, section 4.2).

        The factor of an image is the largest of its classes.

        Returns:
            float64 [N], 1 or more.
        """
        return largest_factors(self, self.class_factors(threshold))

    def class_factors(self, threshold: float) -> dict[int, float]:
        """The factor of each class, max(1, sqrt(threshold / share of the images that have it))."""
        images = Counter(chain.from_iterable(set(self.objects(index)[1].tolist()) for index in range(len(self))))
        return {label: max(1.0, math.sqrt(threshold * len(self) / count)) for label, count in images.items()}

    def __len__(self) -> int:
        return len(self._image_indices)

    def __getitem__(self, item: Key) -> Sample:
        epoch, index, repeat = item
        sample = self.augmentation(self.read, len(self), epoch, index, repeat)
        return replace(sample, name=self.name(index), annotated=len(self.objects(index)[1]))

    def name(self, index: int) -> str:
        """The file name of an image, relative to the folder."""
        return str(self._split.names[int(self._image_indices[index])])

    def objects(self, index: int) -> tuple[Tensor, Tensor]:
        """The boxes, [m, 4] in pixels of the stored image, and the labels, [m], of an image."""
        row = int(self._image_indices[index])
        objects = slice(int(self._split.starts[row]), int(self._split.starts[row + 1]))
        return self._split.boxes[objects], self._split.labels[objects]

    def read(self, index: int) -> Sample:
        """An image with its objects, as stored or at the cache's size."""
        (boxes, labels), name, row = self.objects(index), self.name(index), int(self._image_indices[index])
        height, width = self._split.shapes[row].tolist()
        if self.cache is None:
            return Sample(read_image(self.folder / name, (width, height)), boxes, labels, name)
        image = self.cache.read(row, self.folder / name)
        factors = torch.tensor([image.shape[-1] / width, image.shape[-2] / height] * 2)
        return Sample(image, boxes * factors, labels, name)


class Items(Protocol):
    """Images, or regions of images, with their objects."""

    def __len__(self) -> int: ...

    def objects(self, index: int) -> tuple[Tensor, Tensor]: ...


def largest_factors(items: Items, factors: Mapping[int, float]) -> Tensor:
    """float64 [N]: the largest factor of the classes in each item; 1 without objects."""
    labels = (set(items.objects(index)[1].tolist()) for index in range(len(items)))
    return torch.tensor([max([1.0, *map(factors.__getitem__, present)]) for present in labels], dtype=torch.float64)


def shuffle(indices: Tensor, repeat_factors: Tensor | None, generator: torch.Generator) -> Tensor:
    """The indices in random order; with factors, each is repeated so often on average.

    Args:
        repeat_factors: float64, of all indices that there are.
    """
    if repeat_factors is not None:
        # The fraction of a factor is the probability of one more draw.
        chance = torch.rand(len(indices), generator=generator, dtype=torch.float64)
        indices = indices.repeat_interleave((repeat_factors[indices] + chance).long())
    return indices[torch.randperm(len(indices), generator=generator)]
