"""A training from files to updated weights, compared with torchvision's reference script, step by step.

Both sides train FCOS around EfficientNet-Lite0 with the same layers, weights and batches; all images are mirrored; the
stem, C2 and all batch norms are frozen. Their images are read and their weights are updated as in references/detection.
Each side has its own process, as when people run it: what the C library does with freed memory is a property of a
process. Neither side has workers, which would load images during the other side's steps.

A second measurement has the recipe `lite0_small` as it is on our side instead, with its layers, losses and optimizer,
in bf16 where the CPU is faster so: what one would train here beside what one would train there.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.harness import Measurement, Side
from benchmarks.loader import Folder, ReferenceDataset, collate_lists, our_batches, photographs
from benchmarks.training import CLASSES, LITE0, lite0_models
from fcos.training.history import NullCallback, Row
from pipeline import recipes
from pipeline.data.annotations import AnnotationSet
from pipeline.overrides import override
from pipeline.params import Params
from pipeline.training.build import make_batches, make_trainer

_SIZE = (312, 416)  # shorter and longer side in pixels
_EPOCHS = 1000  # more than a measurement takes
_OPTIONS = [
    "machine.device=cpu", "machine.workers=0", "train.size=[312, 416]", "train.batch_size=8",
    f"train.epochs={_EPOCHS}", f"train.validate_every={_EPOCHS}",
]  # fmt: skip
_REFERENCE_OPTIONS = [
    "loss=giou", "train.precision=float32", "train.optimizer=sgd", "train.lr=0.001", "train.schedule=constant",
    "train.warmup=0", "train.clip_grad_norm=0", "train.ema_decay=0", "train.augment.flip=1",
    "train.augment.scale=[1, 1]",
]  # fmt: skip
_RECIPE = "lite0_small"

Wait = Callable[[float], None]  # is called before each step with the loss of the step before
Run = Callable[[Path, AnnotationSet, Wait], None]
Choose = Callable[[], tuple[Params, Mapping[str, Tensor] | None]]  # parameters, and weights to start from


def files_to_weights() -> tuple[Side, Side]:
    """A training on each side; a call runs one step, and loads the batch of the next one.

    Raises:
        AssertionError: the losses differ by more than what different resizing and rounding explain.
    """
    ours, theirs = _start(partial(train_ours, as_reference))
    for _ in range(2):
        torch.testing.assert_close(ours(), theirs(), rtol=0.05, atol=0)
    return ours, theirs


def recipe_to_weights() -> tuple[Side, Side]:
    """As `files_to_weights`, with our recipe, whose losses are others."""
    return _start(partial(train_ours, as_recipe))


def _start(run_ours: Run) -> tuple[Side, Side]:
    folder = Folder(prefix="training-")
    split = photographs(Path(folder.name))
    return RemoteTraining(run_ours, folder, split), RemoteTraining(train_theirs, folder, split)


class RemoteTraining:
    """A training in a process of its own, which waits before each step and ends with this object.

    A call runs one step and returns its loss.
    """

    def __init__(self, run: Run, folder: Folder, split: AnnotationSet) -> None:
        self.folder = folder  # of the images; is deleted with the last training that uses it
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        context.Process(target=_serve, args=(other, run, Path(folder.name), split), daemon=True).start()
        other.close()
        self.connection.recv()

    def __call__(self) -> float:
        self.connection.send(None)
        loss: float = self.connection.recv()
        return loss


def _serve(connection: Connection, run: Run, folder: Path, split: AnnotationSet) -> None:
    def wait(loss: float) -> None:
        connection.send(loss)
        connection.recv()

    with suppress(EOFError):
        run(folder, split, wait)


class _Loss(NullCallback):
    value, steps = math.nan, 0

    def on_step(self, row: Row, images: int) -> None:  # noqa: ARG002
        self.value, self.steps = row["total"], self.steps + 1


def as_reference() -> tuple[Params, Mapping[str, Tensor] | None]:
    """Parameters and weights like torchvision's side."""
    params = override(recipes.defaults(), [*_OPTIONS, *_REFERENCE_OPTIONS])
    model = replace(LITE0, start_from=params.model.start_from)
    return replace(params, model=model), lite0_models(*_SIZE)[0].state_dict()


def as_recipe() -> tuple[Params, Mapping[str, Tensor] | None]:
    """The recipe's parameters; it has weights of its own."""
    return override(recipes.load(_RECIPE), _OPTIONS), None


def train_ours(choose: Choose, folder: Path, split: AnnotationSet, wait: Wait) -> None:
    """Trains with the pipeline's trainer, which calls `interrupted` before each step and at the end of an epoch."""
    loss, waited_for = _Loss(), -1

    def interrupted() -> bool:
        nonlocal waited_for
        if waited_for != loss.steps:
            waited_for = loss.steps
            wait(loss.value)
        return False

    params, weights = choose()
    trainer = make_trainer(
        params,
        batches=make_batches(params, split, folder),
        validate=lambda _: {"AP": 0.0, "AP50": 0.0},
        classes=[str(label) for label in range(CLASSES)],
        callback=loss,
        checkpoint=None,
        interrupted=interrupted,
    )
    if weights:
        trainer.detector.load_state_dict(weights)
    trainer.fit()


def train_theirs(folder: Path, split: AnnotationSet, wait: Wait) -> None:
    """Trains as the script's train_one_epoch does, without its printing."""
    _, model = lite0_models(*_SIZE)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.001, momentum=0.9, weight_decay=1e-4)
    data = ReferenceDataset(split, folder, 1.0)
    batches = our_batches(split, folder, workers=0, flip=1.0, size=_SIZE)
    value = math.nan
    for epoch in count():
        loader = DataLoader(data, batch_sampler=batches.steps(epoch), collate_fn=collate_lists)
        for images, targets in loader:
            wait(value)
            loss = torch.stack(list(model(images, targets).values())).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            value = loss.item()


MEASUREMENTS = [
    Measurement(
        "CPU, float32: files to updated weights, EfficientNet-Lite0, 8 images of 312×416, each side in its process",
        1.8,
        files_to_weights,
    ),
    Measurement(f"the same, with the recipe {_RECIPE} as it is on our side", 1.8, recipe_to_weights),
]
