"""Parameters and unified data to a trainer: the parts of fcos/, put together."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from fcos.config import ModelConfig
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.postprocess import Postprocess
from fcos.training.checkpoints import Checkpoint
from fcos.training.ema import make_ema
from fcos.training.engine import Batch, History, NonFiniteLoss, NothingToLearn, Row, Trainer, Watcher
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.precision import Precision
from fcos.training.processes import ALONE, Processes
from pipeline.annotations import AnnotationSet
from pipeline.augment import Augmentation, generator
from pipeline.errors import PipelineError
from pipeline.inference import detect_split
from pipeline.loader import Batches, TrainingData, learnt
from pipeline.metrics import coco
from pipeline.model import choose_device
from pipeline.params import Params, TrainParams
from pipeline.workspace import from_root

_FETCHED_TOGETHER = 20  # steps on a GPU whose losses are waited for together
_BY_HEART = 0.95  # AP50 from which images count as learnt by heart
_BY_HEART_EPOCHS, _BY_HEART_STEPS = 20, 50  # at most so many epochs, of so many steps each


class Steps(Protocol):
    """What `Trainer.batches` is, with the number of steps of an epoch."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]: ...


@dataclass(frozen=True)
class Repeated:
    """Epochs of so many steps, each made of as many passes over few images as that takes."""

    batches: Batches
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """An epoch's steps, from the first-th on."""
        for step in range(epoch * self.steps + first, (epoch + 1) * self.steps):
            pass_, place = divmod(step, len(self.batches))
            yield next(self.batches(pass_, place))


def by_heart(params: Params, split: AnnotationSet, processes: Processes = ALONE) -> tuple[Params, AnnotationSet]:
    """For `train.overfit`: so many images with objects, chosen by the seed, and parameters that change none of them.

    The images are also those to be judged on. A batch is no larger than they are, but where processes and
    parts need it to be.
    """
    train = params.train
    unit = processes.count * train.accumulate
    plain = replace(
        train.augment,
        flip=0.0,
        scale=(1.0, 1.0),
        jitter=0.0,
        affine=0.0,
        perspective=0.0,
        crop=0.0,
        mosaic=0.0,
        mixup=0.0,
    )
    return replace(
        params,
        train=replace(
            train,
            workers=0,  # a pass over a few images is too short to start one for
            epochs=_BY_HEART_EPOCHS,
            batch_size=max(unit, min(train.batch_size, train.overfit) // unit * unit),
            limit=None,
            early_stopping=0,
            multi_scale=None,
            frozen_epochs=0,
            augment=plain,
            validate_every=1,
        ),
    ), _some(split, params)


def _some(split: AnnotationSet, params: Params) -> AnnotationSet:
    """As many images with objects as `train.overfit` says, or all where there are fewer; and what is in them."""
    groups, train = split.by_image(), params.train
    fit = [
        image
        for image in split.images
        if learnt(own := groups[image.id], difficult=train.difficult)
        and (train.crowd or not any(a.iscrowd for a in own))
    ]
    order = torch.randperm(len(fit), generator=generator(params.seed, "overfit")).tolist()
    images = tuple(fit[index] for index in sorted(order[: train.overfit]))
    return replace(split, images=images, annotations=tuple(one for image in images for one in groups[image.id]))


def check_by_heart(history: History, split: AnnotationSet) -> None:
    """Makes sure that the images were learnt.

    Raises:
        PipelineError: AP50 stayed too low.
    """
    best = max(row["AP50"] for row in history.epochs)
    if best < _BY_HEART:
        names = ", ".join(image.file_name for image in split.images[:4])
        more = f" and {len(split.images) - 4} more" if len(split.images) > 4 else ""
        raise PipelineError(
            f"train.overfit: AP50 came to {best:.3f}, not to {_BY_HEART}, in {len(history.steps):,} steps on "
            f"{len(split.images)} images ({names}{more}): see whether boxes and classes are right and some location "
            "learns each object (`fcos explain`), then whether train.lr fits (plots and `fcos check`)"
        )


@contextmanager
def one_line() -> Iterator[None]:
    """What ends a training by itself, as the one line that people see.

    Raises:
        PipelineError: the loss isn't finite, nothing is learnt, or a GPU's memory doesn't suffice.
    """
    try:
        yield
    except (NonFiniteLoss, NothingToLearn) as error:
        raise PipelineError(str(error)) from None
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        raise PipelineError(
            f"{first} Raise train.accumulate (the same batch in smaller parts), lower train.batch_size or train.size, "
            "or set train.precision to bf16"
        ) from None


def make_batches(params: Params, split: AnnotationSet, raw: Path, processes: Processes = ALONE) -> Steps:
    """The training batches that the parameters describe."""
    batches = _make_batches(params, split, raw, processes)
    return Repeated(batches, _BY_HEART_STEPS) if params.train.overfit else batches


def _make_batches(params: Params, split: AnnotationSet, raw: Path, processes: Processes) -> Batches:
    train = params.train
    data = TrainingData(
        split,
        raw,
        augmentation=Augmentation(
            params=train.augment,
            input_size=train.input_size,
            multi_scale=train.multi_scale,
            epochs=train.epochs,
            seed=params.seed,
        ),
        difficult=train.difficult,
        empty=train.empty,
        crowd=train.crowd,
    )
    return Batches(
        data=data,
        batch_size=train.batch_size,
        workers=train.workers,
        seed=params.seed,
        canvas=train.input_size.canvas,
        accumulate=train.accumulate,
        rank=processes.rank,
        processes=processes.count,
    )


def make_validation(params: Params, split: AnnotationSet, raw: Path) -> Callable[[Detector], Row]:
    """What a detector is measured by after an epoch: AP and AP50, by the fast engine."""

    def validate(detector: Detector) -> Row:
        found = detect_split(
            detector,
            split,
            raw,
            input_size=params.train.input_size,
            postprocess=Postprocess(),
            batch_size=params.train.batch_size,
        )
        measured = coco.fast_ap(split, list(found))
        return {name: measured[name] or 0.0 for name in ("AP", "AP50")}

    return validate


def iterations(train: TrainParams, steps: int, value: float) -> int:
    """A length in the unit of train.counted_in as a number of steps.

    Args:
        steps: of one epoch.
    """
    of_one = {"shares": train.epochs * steps, "epochs": steps, "iterations": 1}[train.counted_in]
    return round(value * of_one)


def learning_rate(train: TrainParams) -> float:
    """The peak, for the batch that there really is (Goyal et al., 1706.02677)."""
    return train.lr * train.batch_size / (train.lr_batch or train.batch_size)


def _rooted(model: ModelConfig) -> ModelConfig:
    """With its file of weights under the main repository's root: a temporary workspace has no copy of it."""
    return replace(model, pretrained=str(from_root(model.pretrained))) if isinstance(model.pretrained, str) else model


def make_trainer(
    params: Params,
    *,
    batches: Steps,
    validate: Callable[[Detector], Row],
    classes: int,
    watcher: Watcher,
    checkpoint: Checkpoint | None,
    processes: Processes = ALONE,
    interrupted: Callable[[], bool] = lambda: False,
) -> Trainer:
    """Everything that `Trainer.fit` needs, weights drawn from the seed.

    Raises:
        PipelineError: ImageNet weights were asked for and aren't there.
    """
    train = params.train
    device = choose_device(train.device)
    counted = partial(iterations, train, len(batches))
    torch.manual_seed(params.seed)
    try:
        detector = build(_rooted(params.model), classes).to(device)
    except ValueError as error:
        raise PipelineError(f"params.yaml: model.{error}") from None
    optimizer = make_optimizer(
        detector,
        name=train.optimizer,
        lr=learning_rate(train),
        weight_decay=train.weight_decay,
        momentum=train.momentum,
    )
    return Trainer(
        detector=detector,
        criterion=Criterion(params.model, box_loss=params.loss),
        optimizer=optimizer,
        schedule=make_schedule(
            optimizer,
            name=train.schedule,
            steps=train.epochs * len(batches),
            warmup=counted(train.warmup),
            drops=[counted(step) for step in train.steps],
            gamma=train.gamma,
        ),
        precision=Precision(train.precision, device),
        processes=processes,
        seed=params.seed,
        frozen_epochs=train.frozen_epochs,
        score="AP50" if train.overfit else "AP",
        enough=_BY_HEART if train.overfit else math.inf,
        patience=train.early_stopping,
        checkpoint_steps=train.checkpoint_steps,
        log_every=1 if device.type == "cpu" else _FETCHED_TOGETHER,
        interrupted=interrupted,
        ema=make_ema(detector, train.ema) if train.ema else None,
        batches=batches,
        validate=validate,
        epochs=train.epochs,
        validate_every=train.validate_every,
        clip_norm=train.clip_norm,
        watcher=watcher,
        checkpoint=checkpoint,
        checkpoint_every=train.checkpoint_every,
    )
