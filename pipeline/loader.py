"""Unified data to batches. A sample's randomness comes from (seed, epoch, image) alone: order, workers and a resume
change nothing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fcos.detector import stacked
from fcos.targets import targets
from fcos.training.engine import Batch
from pipeline.annotations import Annotation, AnnotationSet
from pipeline.augment import Augmentation, Sample, generator
from pipeline.errors import PipelineError
from pipeline.images import read_image


class TrainingData(Dataset[Any]):
    """One split to learn from. An item is asked for by (epoch, index).

    Its objects are those that `learnt` leaves.
    """

    def __init__(
        self,
        split: AnnotationSet,
        folder: Path,
        *,
        augmentation: Augmentation,
        difficult: bool,
        empty: bool,
        crowd: bool = True,
    ) -> None:
        label_of, groups = split.label_of(), split.by_image()
        objects = {image: learnt(annotations, difficult=difficult) for image, annotations in groups.items()}
        self.folder, self.augmentation = folder, augmentation
        images = [
            image
            for image in split.images
            if (empty or objects[image.id]) and (crowd or not any(one.iscrowd for one in groups[image.id]))
        ]
        self.names = [image.file_name for image in images]
        self.shapes = [(image.height, image.width) for image in images]
        kept = [objects[image.id] for image in images]
        self.boxes = [_corners(annotations) for annotations in kept]
        self.labels = [torch.tensor([label_of[a.category_id] for a in one], dtype=torch.int64) for one in kept]
        if not any(len(boxes) for boxes in self.boxes):
            raise PipelineError(f"{folder}: {len(self.names)} images, but not one object to learn from")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, item: tuple[int, int]) -> Sample:
        epoch, index = item
        return replace(
            self.augmentation(self.read, len(self), epoch, index),
            name=self.names[index],
            annotated=len(self.boxes[index]),
        )

    def read(self, index: int) -> Sample:
        """An image as stored, with its objects."""
        name, boxes = self.names[index], self.boxes[index]
        return Sample(read_image(self.folder / name), boxes, self.labels[index], name)


def learnt(annotations: Sequence[Annotation], *, difficult: bool) -> list[Annotation]:
    """Those that training learns from: no crowds, whose boxes hold several; difficult ones only where asked."""
    return [a for a in annotations if not a.iscrowd and (difficult or not a.difficult)]


def _corners(annotations: Sequence[Annotation]) -> torch.Tensor:
    boxes = torch.tensor([annotation.bbox for annotation in annotations], dtype=torch.float32).view(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=-1)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The steps of each epoch: shuffled anew, the last one left out where it isn't full.

    Every process gets its share of each step, as many images as the others, in `accumulate` parts.
    """

    data: TrainingData
    batch_size: int  # images of a step, over all processes
    workers: int
    seed: int
    canvas: tuple[int, int] | None = None
    accumulate: int = 1
    rank: int = 0
    processes: int = 1

    def __len__(self) -> int:
        return max(1, len(self.data) // self.batch_size)

    def steps(self, epoch: int) -> list[list[int]]:
        """The images of every step of an epoch, of all processes; where there are too few for one, they come again."""
        order = torch.randperm(len(self.data), generator=generator(self.seed, epoch, "order")).tolist()
        order *= -(-self.batch_size // len(order))
        return [order[step * self.batch_size : (step + 1) * self.batch_size] for step in range(len(self))]

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """An epoch's steps, from the first-th on: this process's share of each, in its parts."""
        share = self.batch_size // self.processes // self.accumulate
        keys = [
            [(epoch, index) for index in step[start : start + share]]
            for step in self.steps(epoch)[first:]
            for start in range(self.rank * share * self.accumulate, (self.rank + 1) * share * self.accumulate, share)
        ]
        # The type of batch_sampler's keys is ours: the dataset takes (epoch, index).
        loader: DataLoader[Batch] = DataLoader(
            self.data,
            batch_sampler=keys,
            num_workers=self.workers,
            collate_fn=partial(collate, canvas=self.canvas),
            pin_memory=torch.cuda.is_available(),
        )
        try:
            yield from batched(loader, self.accumulate)
        except PipelineError as error:
            # A worker's comes wrapped in its traceback, whose last line is the error.
            raise PipelineError(str(error).strip().splitlines()[-1].split("PipelineError: ")[-1]) from None


def batched(parts: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    """Lists of so many parts each."""
    iterator = iter(parts)
    while together := list(islice(iterator, count)):
        yield together


def collate(samples: Sequence[Sample], canvas: tuple[int, int] | None = None) -> Batch:
    """Puts samples, padded to the largest of them or to a canvas, into one batch."""
    pixels, sizes = stacked([sample.image for sample in samples], canvas)
    return Batch(
        pixels=pixels,
        sizes=sizes,
        targets=targets([sample.boxes for sample in samples], [sample.labels for sample in samples]),
        names=[sample.name for sample in samples],
        objects=sum(len(sample.boxes) for sample in samples),
        annotated=sum(sample.annotated for sample in samples),
    )
