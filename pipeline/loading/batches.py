"""Unified data to batches. A sample's randomness comes from (seed, epoch, image) alone: order, workers and a resume
change nothing."""

import gc
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fcos.detector import batch_images
from fcos.structures import make_targets
from fcos.training.batch import Batch
from pipeline.errors import PipelineError
from pipeline.loading.dataset import TrainingData
from pipeline.loading.transforms import Sample, generator
from pipeline.process import die_with_parent

# Steps whose images are put together by shape. On VOC2007 at 800 px in batches of 8, padding is then 5 % of all pixels;
# unsorted it is 35 %, all sorted 2 %, but the same images would meet in every epoch.
_WINDOW = 16


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
    group_by_aspect_ratio: bool = False  # images of like shape together, where there is no canvas
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1
    pin_memory: bool = False  # for copies to a GPU beside its work

    def __len__(self) -> int:
        return max(1, len(self.data) // self.batch_size)

    def steps(self, epoch: int) -> list[list[int]]:
        """The images of every step of an epoch, of all processes; where there are too few for one, they come again."""
        random = generator(self.seed, epoch, "order")
        order = torch.randperm(len(self.data), generator=random)
        order = order.repeat(-(-self.batch_size // len(order)))[: len(self) * self.batch_size]
        steps = order.view(-1, self.batch_size)
        if self.group_by_aspect_ratio and not self.canvas:
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
        share = self.batch_size // self.world_size // self.accumulate
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
                "lower machine.workers or train.batch_size"
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
    pixels, sizes = batch_images([sample.image for sample in samples], canvas)
    return Batch(
        pixels=pixels,
        sizes=sizes,
        targets=make_targets([sample.boxes for sample in samples], [sample.labels for sample in samples]),
        names=[sample.name for sample in samples],
        objects=sum(len(sample.boxes) for sample in samples),
        annotated=sum(sample.annotated for sample in samples),
    )
