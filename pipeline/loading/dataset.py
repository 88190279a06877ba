"""One split to learn from, in arrays that worker processes share."""

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.boxes import box_tensor
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.loading.cache import ImageCache
from pipeline.loading.transforms import Augmentation, Sample, generator


class PackedStrings(Sequence[str]):
    """Strings in one buffer."""

    def __init__(self, names: Iterable[str]) -> None:
        encoded = [name.encode() for name in names]
        self._buffer = b"".join(encoded)
        self._ends = np.cumsum([0, *map(len, encoded)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: Any) -> Any:
        return self._buffer[self._ends[index] : self._ends[index + 1]].decode()


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedObjects:
    """What is to be learned of a split's images, in a few arrays.

    Processes forked off share memory until one writes to it, and to read a Python object is to write its count of
    references: with an object for each name and box, every worker ends up with a copy of all of them.
    """

    names: PackedStrings  # N
    shapes: Tensor  # int64 [N, 2] height, width
    crowded: Tensor  # bool [N]
    boxes: Tensor  # float32 [M, 4] x1, y1, x2, y2
    labels: Tensor  # int64 [M] 0…K−1
    starts: Tensor  # int64 [N + 1] the i-th image's are boxes[starts[i]:starts[i + 1]]


def _pack(split: AnnotationSet, *, include_difficult: bool) -> PackedObjects:
    label_of, groups = split.label_of(), split.by_image()
    kept = [trainable_annotations(groups[image.id], include_difficult=include_difficult) for image in split.images]
    together = [annotation for annotations in kept for annotation in annotations]
    return PackedObjects(
        names=PackedStrings(image.file_name for image in split.images),
        shapes=torch.tensor([(image.height, image.width) for image in split.images]).view(-1, 2),
        crowded=torch.tensor([any(one.iscrowd for one in groups[image.id]) for image in split.images]),
        boxes=box_tensor(together),
        labels=torch.tensor([label_of[annotation.category_id] for annotation in together], dtype=torch.int64),
        starts=torch.tensor([0, *map(len, kept)]).cumsum(0),
    )


def trainable_annotations(annotations: Sequence[Annotation], *, include_difficult: bool) -> list[Annotation]:
    """Those that training learns from: no crowds, whose boxes hold several; difficult ones only where asked."""
    return [a for a in annotations if not a.iscrowd and (include_difficult or not a.difficult)]


class TrainingData(Dataset[Any]):
    """One split to learn from, or a part of it. An item is asked for by (epoch, index).

    Its objects are those that `trainable_annotations` returns.

    Args:
        include_empty: whether images without such objects are among its images.
        include_crowd: whether images with a crowd are.
        cache: of all the split's images. What `read` gives is then at its size and not as stored, and a zoom starts
            from there: the same pixels where `augment` neither cuts nor zooms, others where it does.

    Raises:
        PipelineError: nothing is to be learned from these images.
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
        self._all = objects = _pack(split, include_difficult=include_difficult)
        usable = (include_empty | (objects.starts.diff() > 0)) & (include_crowd | ~objects.crowded)
        self._rows = usable.nonzero().squeeze(1)  # of the images in `_all`
        self._check()

    def _check(self) -> None:
        if not self.object_counts.any():
            raise PipelineError(f"{self.folder}: {len(self)} images, but not one object to learn from")

    def subset(self, indices: Sequence[int] | Tensor) -> "TrainingData":
        """Some of the images, in this order.

        Raises:
            PipelineError: nothing is to be learned from them.
        """
        answer = copy(self)
        answer._rows = self._rows[torch.as_tensor(indices, dtype=torch.int64)]
        answer._check()
        return answer

    def random_subset(self, count: int, seed: int) -> "TrainingData":
        """So many of the images, chosen by the seed; fewer are among more. All, where there are no more."""
        chosen = torch.randperm(len(self), generator=generator(seed, "limit"))[:count]
        return self.subset(chosen.sort().values)

    @property
    def image_indices(self) -> Tensor:
        """int64 [N]: places of the images in the split."""
        return self._rows

    @property
    def object_counts(self) -> Tensor:
        """int64 [N]: each image's number of objects."""
        return self._all.starts.diff()[self._rows]

    @property
    def shapes(self) -> Tensor:
        """int64 [N, 2]: each image's height and width as stored."""
        return self._all.shapes[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        sample = self.augmentation(self.read, len(self), epoch, index)
        row = int(self._rows[index])
        annotated = int(self._all.starts[row + 1] - self._all.starts[row])
        return replace(sample, name=self.name(index), annotated=annotated)

    def name(self, index: int) -> str:
        """Of the image's file, in the data set's folder."""
        return str(self._all.names[int(self._rows[index])])

    def objects(self, index: int) -> tuple[Tensor, Tensor]:
        """An image's boxes, [m, 4] in pixels as stored, and labels, [m]."""
        row = int(self._rows[index])
        its = slice(int(self._all.starts[row]), int(self._all.starts[row + 1]))
        return self._all.boxes[its], self._all.labels[its]

    def read(self, index: int) -> Sample:
        """An image with its objects: as stored, or at the cache's size."""
        (boxes, labels), name = self.objects(index), self.name(index)
        if self.cache is None:
            return Sample(read_image(self.folder / name), boxes, labels, name)
        row = int(self._rows[index])
        image = self.cache.read(row, self.folder / name)
        height, width = self._all.shapes[row].tolist()
        factors = torch.tensor([image.shape[-1] / width, image.shape[-2] / height] * 2)
        return Sample(image, boxes * factors, labels, name)
