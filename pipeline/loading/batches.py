"""Training batches. An image's random draws depend only on (seed, epoch, image), not on order, workers or a resume.

An image that an epoch has several times is drawn differently each time.
"""

import gc
import multiprocessing
import signal
import threading
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count, islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from fcos.detector import batch_images
from fcos.structures import make_targets
from fcos.training.batch import Batch
from pipeline.errors import PipelineError
from pipeline.loading.dataset import Key, TrainingData
from pipeline.loading.tiles import TiledData
from pipeline.loading.transforms import Sample, torch_generator
from pipeline.process import die_with_parent

# Steps whose images are grouped by aspect ratio. On VOC2007 at 800 px in batches of 8, padding is then 5 % of all
# pixels. Without grouping it is 35 %; grouping the whole epoch gives 2 %, but then the same images meet in every epoch.
_WINDOW = 16
_WINDOW_OF_TILES = 4  # the same for tiles, most of which are equal: a larger window has tiles of more images


class _EpochKeys:
    """The batch sampler of a DataLoader whose workers persist: its keys are replaced for each epoch."""

    def __init__(self) -> None:
        self.parts: list[list[Key]] = []

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)


@dataclass(frozen=True, kw_only=True)
class Batches:
    """The training steps of each epoch: shuffled, without an incomplete last step.

    Each process gets an equal share of every step, in `accumulate` parts.
    """

    data: TrainingData | TiledData
    batch_size: int  # images per step, over all processes
    workers: int  # processes that decode and augment; they persist over epochs, so only one epoch is read at a time
    seed: int
    canvas: tuple[int, int] | None = None
    group_by_aspect_ratio: bool = False  # group images of similar shape into a step; no effect with a canvas
    # [images] how often each is drawn, in proportion; an epoch keeps its number of steps. None: all of them once.
    repeat_factors: Tensor | None = None
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1
    pin_memory: bool = False  # so that copies to a GPU run while it computes

    def __len__(self) -> int:
        return max(1, self.data.epoch_length // self.batch_size)

    def steps(self, epoch: int) -> list[list[int]]:
        """The image indices of every step of an epoch, over all processes; repeated if there are too few for a step."""
        generator = torch_generator(self.seed, epoch, "order")
        order = self.data.order(epoch, generator, self.repeat_factors)
        order = order.repeat(-(-self.batch_size // len(order)))[: len(self) * self.batch_size]
        steps = order.view(-1, self.batch_size)
        if self.group_by_aspect_ratio and not self.canvas:
            size = _WINDOW_OF_TILES if self.data.keeps_neighbors else _WINDOW
            windows = [steps[start : start + size] for start in range(0, len(steps), size)]
            windows = [self._sort_by_aspect_ratio(window) for window in windows]
            if self.data.keeps_neighbors:
                windows = [window[torch.randperm(len(window), generator=generator)] for window in windows]
                return torch.cat(windows).tolist()
            steps = torch.cat(windows)
            steps = steps[torch.randperm(len(steps), generator=generator)]
        return steps.tolist()

    def _sort_by_aspect_ratio(self, steps: Tensor) -> Tensor:
        height, width = self.data.shapes[steps.flatten()].unbind(-1)
        return steps.flatten()[(width / height).argsort(stable=True)].view_as(steps)

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """This process's share of the steps of an epoch, each as a list of parts.

        Args:
            first: index of the first step, such as after a resume.

        Raises:
            PipelineError: an image can't be read, or a worker was killed.
        """
        keys, loader = self._loader
        keys.parts = self._parts(epoch, first)
        try:
            yield from group_parts(_start(loader), self.accumulate)
        except PipelineError as error:
            raise PipelineError(_unwrap_worker_error(error.args[0])) from None
        except (RuntimeError, ConnectionError, EOFError) as error:
            # A connection error means that a worker died while it handed over a batch.
            if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
                raise
            raise PipelineError(
                "a process that loads images was killed, most likely for lack of memory (or of space in /dev/shm): "
                "lower machine.workers or train.batch_size"
            ) from None

    def _parts(self, epoch: int, first: int) -> list[list[Key]]:
        """The keys of each part of this process's share."""
        size = self.batch_size // self.world_size // self.accumulate
        share = range(self.rank * size * self.accumulate, (self.rank + 1) * size * self.accumulate, size)
        return [
            step[start : start + size] for step in count_repeats(epoch, self.steps(epoch))[first:] for start in share
        ]

    @cached_property
    def _loader(self) -> tuple[_EpochKeys, "DataLoader[Batch]"]:
        keys = _EpochKeys()
        with _ignore_worker_count_warning():
            return keys, DataLoader(
                self.data,
                batch_sampler=keys,
                num_workers=self.workers,
                collate_fn=partial(collate, canvas=self.canvas),
                pin_memory=self.pin_memory,
                worker_init_fn=_initialize_worker,
                multiprocessing_context="fork" if self.workers else None,
                persistent_workers=self.workers > 0,
                generator=torch.Generator(),  # DataLoader draws seeds: not from the global generator
            )


@contextmanager
def _ignore_worker_count_warning() -> Iterator[None]:
    """torch warns of more workers than cores, but they help with a slow disk."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)
        yield


def _unwrap_worker_error(message: str) -> str:
    """The original message: torch wraps a worker's error in its traceback, whose last line is `…PipelineError: …`."""
    if not message.startswith("Caught PipelineError in DataLoader worker process"):
        return message
    return message.strip().splitlines()[-1].split("PipelineError: ", 1)[-1]


def _start(loader: "DataLoader[Batch]") -> Iterator[Batch]:
    """The loader's iterator, without torch's handler of SIGCHLD.

    With that handler, a killed worker raises an error at an arbitrary point of the training. Without it, the error
    appears when `Batches` waits for the worker's batch.
    """
    is_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) or signal.SIG_DFL
    with _ignore_worker_count_warning():
        iterator = iter(loader)
    if is_main_thread:  # other threads can't set handlers, and there torch sets none
        signal.signal(signal.SIGCHLD, handler)
    return iterator


def _initialize_worker(worker: int) -> None:  # noqa: ARG001
    gc.freeze()  # or the first collection writes to all objects shared with the parent, and thereby copies them
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the training decides when to stop
    training = multiprocessing.parent_process()
    die_with_parent(training.pid if training else None)  # torch's workers live on if it died before they began


def count_repeats(epoch: int, steps: Iterable[Sequence[int]]) -> list[list[Key]]:
    """The keys of an epoch's steps, from the image indices."""
    repeats: defaultdict[int, Iterator[int]] = defaultdict(count)
    return [[(epoch, index, next(repeats[index])) for index in step] for step in steps]


def group_parts(parts: Iterable[Batch], count: int) -> Iterator[list[Batch]]:
    """Groups consecutive parts into lists of `count`."""
    iterator = iter(parts)
    while group := list(islice(iterator, count)):
        yield group


def collate(samples: Sequence[Sample], canvas: tuple[int, int] | None = None) -> Batch:
    """Combines samples into a batch, padded to the largest of them, or to the canvas (height, width)."""
    pixels, sizes = batch_images([sample.image for sample in samples], canvas)
    return Batch(
        pixels=pixels,
        sizes=sizes,
        targets=make_targets([sample.boxes for sample in samples], [sample.labels for sample in samples]),
        names=[sample.name for sample in samples],
        objects=sum(len(sample.boxes) for sample in samples),
        annotated=sum(sample.annotated for sample in samples),
    )
