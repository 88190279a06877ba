"""Unified data to batches. A sample's randomness comes from (seed, epoch, image) alone: order, workers and a resume
change nothing."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from fcos.targets import targets
from fcos.training.engine import Batch
from pipeline.annotations import Annotation, AnnotationSet
from pipeline.augment import Sample, augment
from pipeline.errors import PipelineError
from pipeline.images import read_image


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    size: tuple[int, int]
    zoom: tuple[float, float]
    flip_probability: float
    seed: int


class TrainingData(Dataset[Sample]):
    """One split to learn from. An item is asked for by (epoch, index).

    Its objects are those that `learnt` leaves.
    """

    def __init__(
        self, split: AnnotationSet, folder: Path, *, augmentation: Augmentation, difficult: bool, empty: bool
    ) -> None:
        label_of, groups = split.label_of(), split.by_image()
        objects = {image: learnt(annotations, difficult=difficult) for image, annotations in groups.items()}
        self.folder, self.augmentation = folder, augmentation
        self.names = [image.file_name for image in split.images if empty or objects[image.id]]
        kept = [objects[image.id] for image in split.images if empty or objects[image.id]]
        self.boxes = [_corners(annotations) for annotations in kept]
        self.labels = [torch.tensor([label_of[a.category_id] for a in one], dtype=torch.int64) for one in kept]
        if not any(len(boxes) for boxes in self.boxes):
            raise PipelineError(f"{folder}: {len(self.names)} images, but not one object to learn from")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        sample = Sample(
            read_image(self.folder / self.names[index]), self.boxes[index], self.labels[index], self.names[index]
        )
        how = self.augmentation
        return augment(
            sample,
            size=how.size,
            zoom=how.zoom,
            flip_probability=how.flip_probability,
            random=generator(how.seed, epoch, self.names[index]),
        )


def learnt(annotations: Sequence[Annotation], *, difficult: bool) -> list[Annotation]:
    """Those that training learns from: no crowds, whose boxes hold several; difficult ones only where asked."""
    return [a for a in annotations if not a.iscrowd and (difficult or not a.difficult)]


def _corners(annotations: Sequence[Annotation]) -> torch.Tensor:
    boxes = torch.tensor([annotation.bbox for annotation in annotations], dtype=torch.float32).view(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=-1)


def generator(*key: object) -> torch.Generator:
    """A random generator that depends on the key alone, the same on every machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The batches of each epoch: shuffled anew, the last one left out where it isn't full."""

    data: TrainingData
    batch_size: int
    workers: int
    seed: int

    def __len__(self) -> int:
        return max(1, len(self.data) // self.batch_size)

    def __call__(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """An epoch's batches, from the first-th on."""
        order = torch.randperm(len(self.data), generator=generator(self.seed, epoch, "order")).tolist()
        starts = range(first * self.batch_size, len(self) * self.batch_size, self.batch_size)
        keys = [[(epoch, index) for index in order[start : start + self.batch_size]] for start in starts]
        # The type of batch_sampler's keys is ours: the dataset takes (epoch, index).
        loader: DataLoader[Sample] = DataLoader(
            self.data,
            batch_sampler=keys,
            num_workers=self.workers,
            collate_fn=collate,
        )
        try:
            yield from loader
        except PipelineError as error:
            # A worker's comes wrapped in its traceback, whose last line is the error.
            raise PipelineError(str(error).strip().splitlines()[-1].split("PipelineError: ")[-1]) from None


def collate(samples: Sequence[Sample]) -> Batch:
    return Batch(
        images=[sample.image for sample in samples],
        targets=targets([sample.boxes for sample in samples], [sample.labels for sample in samples]),
        names=[sample.name for sample in samples],
    )
