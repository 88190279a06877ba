"""Unified data to batches. A sample's randomness comes from (seed, epoch, image) alone: order, workers and a resume
change nothing."""

import gc
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fcos.detector import stacked
from fcos.targets import targets
from fcos.training.batch import Batch
from pipeline.annotations import Annotation, AnnotationSet
from pipeline.augment import Augmentation, Sample, generator
from pipeline.cache import ImageCache
from pipeline.errors import PipelineError
from pipeline.images import read_image
from pipeline.stage import die_with_parent

# Steps whose images are put together by shape. On VOC2007 at 800 px in batches of 8, padding is then 5 % of all pixels;
# unsorted it is 35 %, all sorted 2 %, but the same images would meet in every epoch.
_WINDOW = 16


class Names(Sequence[str]):
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
class Objects:
    """What is to be learnt of a split's images, in a few arrays.

    Processes forked off share memory until one writes to it, and to read a Python object is to write its count of
    references: with an object for each name and box, every worker ends up with a copy of all of them.
    """

    names: Names  # N
    shapes: Tensor  # int64 [N, 2] height, width
    crowded: Tensor  # bool [N]
    boxes: Tensor  # float32 [M, 4] x1, y1, x2, y2
    labels: Tensor  # int64 [M] 0…K−1
    starts: Tensor  # int64 [N + 1] the i-th image's are boxes[starts[i]:starts[i + 1]]


def _objects(split: AnnotationSet, *, difficult: bool) -> Objects:
    label_of, groups = split.label_of(), split.by_image()
    kept = [learnt(groups[image.id], difficult=difficult) for image in split.images]
    together = [annotation for annotations in kept for annotation in annotations]
    return Objects(
        names=Names(image.file_name for image in split.images),
        shapes=torch.tensor([(image.height, image.width) for image in split.images]).view(-1, 2),
        crowded=torch.tensor([any(one.iscrowd for one in groups[image.id]) for image in split.images]),
        boxes=_corners(together),
        labels=torch.tensor([label_of[annotation.category_id] for annotation in together], dtype=torch.int64),
        starts=torch.tensor([0, *map(len, kept)]).cumsum(0),
    )


def learnt(annotations: Sequence[Annotation], *, difficult: bool) -> list[Annotation]:
    """Those that training learns from: no crowds, whose boxes hold several; difficult ones only where asked."""
    return [a for a in annotations if not a.iscrowd and (difficult or not a.difficult)]


def _corners(annotations: Sequence[Annotation]) -> Tensor:
    boxes = torch.tensor([annotation.bbox for annotation in annotations], dtype=torch.float32).view(-1, 4)
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=-1)


class TrainingData(Dataset[Any]):
    """One split to learn from, or a part of it. An item is asked for by (epoch, index).

    Its objects are those that `learnt` leaves.

    Args:
        empty: whether images without such objects are among its images.
        crowd: whether images with a crowd are.
        cache: of all the split's images. What `read` gives is then at its size and not as stored, and a zoom starts
            from there: the same pixels where `augment` neither cuts nor zooms, others where it does.

    Raises:
        PipelineError: nothing is to be learnt from these images.
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
        cache: ImageCache | None = None,
    ) -> None:
        self.folder, self.augmentation, self.cache = folder, augmentation, cache
        self._all = objects = _objects(split, difficult=difficult)
        usable = (empty | (objects.starts.diff() > 0)) & (crowd | ~objects.crowded)
        self._rows = usable.nonzero().squeeze(1)  # of the images in `_all`
        self._check()

    def _check(self) -> None:
        if not self.counts.any():
            raise PipelineError(f"{self.folder}: {len(self)} images, but not one object to learn from")

    def subset(self, indices: Sequence[int] | Tensor) -> "TrainingData":
        """Some of the images, in this order.

        Raises:
            PipelineError: nothing is to be learnt from them.
        """
        answer = copy(self)
        answer._rows = self._rows[torch.as_tensor(indices, dtype=torch.int64)]
        answer._check()
        return answer

    def limited(self, count: int, seed: int) -> "TrainingData":
        """So many of the images, chosen by the seed; fewer are among more. All, where there are no more."""
        chosen = torch.randperm(len(self), generator=generator(seed, "limit"))[:count]
        return self.subset(chosen.sort().values)

    @property
    def rows(self) -> Tensor:
        """int64 [N]: places of the images in the split."""
        return self._rows

    @property
    def counts(self) -> Tensor:
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


class _Keys:
    """What a DataLoader is asked for: other keys in each epoch, while its workers stay."""

    def __init__(self) -> None:
        self.parts: list[list[tuple[int, int]]] = []

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The steps of each epoch: shuffled anew, the last one left out where it isn't full.

    Every process gets its share of each step, as many images as the others, in `accumulate` parts.
    """

    data: TrainingData
    batch_size: int  # images of a step, over all processes
    workers: int  # processes that decode and augment; they stay for all epochs, of which one is asked for at a time
    seed: int
    canvas: tuple[int, int] | None = None
    group_shapes: bool = False  # images of like shape together, where there is no canvas
    accumulate: int = 1
    rank: int = 0
    processes: int = 1
    pin_memory: bool = False  # for copies to a GPU beside its work

    def __len__(self) -> int:
        return max(1, len(self.data) // self.batch_size)

    def steps(self, epoch: int) -> list[list[int]]:
        """The images of every step of an epoch, of all processes; where there are too few for one, they come again."""
        random = generator(self.seed, epoch, "order")
        order = torch.randperm(len(self.data), generator=random)
        order = order.repeat(-(-self.batch_size // len(order)))[: len(self) * self.batch_size]
        steps = order.view(-1, self.batch_size)
        if self.group_shapes and not self.canvas:
            steps = torch.cat([self._grouped(steps[at : at + _WINDOW]) for at in range(0, len(steps), _WINDOW)])
            steps = steps[torch.randperm(len(steps), generator=random)]
        return steps.tolist()

    def _grouped(self, steps: Tensor) -> Tensor:
        """The images of some steps, sorted by the ratio of their sides."""
        height, width = self.data.shapes[steps.flatten()].unbind(-1)
        return steps.flatten()[(width / height).argsort(stable=True)].view_as(steps)

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """An epoch's steps, from the first-th on: this process's share of each, in its parts.

        Raises:
            PipelineError: an image can't be read, or a worker was killed.
        """
        keys, loader = self._loader
        share = self.batch_size // self.processes // self.accumulate
        keys.parts = [
            [(epoch, index) for index in step[start : start + share]]
            for step in self.steps(epoch)[first:]
            for start in range(self.rank * share * self.accumulate, (self.rank + 1) * share * self.accumulate, share)
        ]
        try:
            yield from batched(_begun(loader), self.accumulate)
        except PipelineError as error:
            raise PipelineError(_own_words(error.args[0])) from None
        except (RuntimeError, ConnectionError, EOFError) as error:
            # A connection breaks where a worker dies while it hands a batch over.
            if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
                raise
            raise PipelineError(
                "a process that loads images was killed, most likely for lack of memory (or of room in /dev/shm): "
                "lower train.workers or train.batch_size"
            ) from None

    @cached_property
    def _loader(self) -> tuple[_Keys, "DataLoader[Batch]"]:
        keys = _Keys()
        with _as_many_workers_as_asked():
            # The type of batch_sampler's keys is ours: the dataset takes (epoch, index).
            return keys, DataLoader(
                self.data,
                batch_sampler=keys,
                num_workers=self.workers,
                collate_fn=partial(collate, canvas=self.canvas),
                pin_memory=self.pin_memory,
                worker_init_fn=_begin_work,
                multiprocessing_context="fork" if self.workers else None,
                persistent_workers=self.workers > 0,
                generator=torch.Generator(),  # it draws seeds that we don't use: not from the global one
            )


@contextmanager
def _as_many_workers_as_asked() -> Iterator[None]:
    """torch warns of more workers than cores; whoever reads from a slow disk wants them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


def _own_words(message: str) -> str:
    """An error of a worker comes wrapped in its traceback, whose last line is `pipeline.errors.PipelineError: …`."""
    if not message.startswith("Caught PipelineError in DataLoader worker process"):
        return message
    return message.strip().splitlines()[-1].split("PipelineError: ", 1)[-1]


def _begun(loader: "DataLoader[Batch]") -> Iterator[Batch]:
    """Its iterator. A killed worker then shows when its batch is waited for, where `Batches` can say what it means.

    torch would raise an error from a signal handler, wherever the training is just then.
    """
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    with _as_many_workers_as_asked():
        iterator = iter(loader)
    if main:  # others can't set a handler, and torch doesn't
        signal.signal(signal.SIGCHLD, handler)
    return iterator


def _begin_work(worker: int) -> None:  # noqa: ARG001
    """What a worker process does first."""
    gc.freeze()  # or its first collection writes to every object that it shares with its parent, and copies it so
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the training says when to stop
    die_with_parent()


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
