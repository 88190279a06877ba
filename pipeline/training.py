"""Parameters and unified data to a trainer: the parts of fcos/, put together."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from fcos.config import ModelConfig
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.postprocess import Postprocess
from fcos.training.checkpoints import Checkpoint
from fcos.training.ema import make_ema
from fcos.training.engine import Interrupted, Row, Trainer, Watcher
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.precision import Precision
from fcos.training.processes import ALONE, Processes
from pipeline.annotations import AnnotationSet
from pipeline.augment import Augmentation
from pipeline.errors import PipelineError
from pipeline.inference import detect_split
from pipeline.loader import Batches, TrainingData
from pipeline.metrics import coco
from pipeline.metrics.results import Detection
from pipeline.model import choose_device
from pipeline.params import Params, TrainParams
from pipeline.workspace import from_root

_FETCHED_TOGETHER = 20  # steps on a GPU whose losses are waited for together


def make_batches(params: Params, split: AnnotationSet, raw: Path, processes: Processes = ALONE) -> Batches:
    """The training batches that the parameters describe."""
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


def make_validation(
    params: Params,
    split: AnnotationSet,
    raw: Path,
    interrupted: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
) -> Callable[[Detector], Row]:
    """What a detector is measured by after an epoch: AP and AP50, by the fast engine.

    Every process detects in its share of the images; the first one measures, and all get its row. Interrupted is
    raised between two batches, in all of them, where `interrupted` says so in one.
    """

    def go_on(_images: int) -> None:
        if processes.highest(int(interrupted())):
            raise Interrupted

    def validate(detector: Detector) -> Row:
        processes.alike(detector)
        share = detect_split(
            detector,
            split,
            raw,
            input_size=params.train.input_size,
            postprocess=Postprocess(),
            batch_size=max(1, params.train.batch_size // processes.count),
            progress=go_on,
            rank=processes.rank,
            processes=processes.count,
        )
        # As plain values, which pass in a tenth of the time.
        found = processes.gathered([(one.image_id, one.category_id, one.bbox, one.score) for one in share])
        row: Row = processes.of_first(_measured(split, found) if processes.rank == 0 else None)
        return row

    return validate


def _measured(split: AnnotationSet, found: Sequence[Sequence[tuple[Any, ...]]]) -> Row:
    # In the order of images, whichever process had them: of equal scores, the first detection counts first.
    detections = sorted((Detection(*values) for values in chain(*found)), key=lambda one: one.image_id)
    measured = coco.fast_ap(split, detections)
    return {name: measured[name] or 0.0 for name in ("AP", "AP50")}


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


def _batch_norm(model: ModelConfig, device: torch.device, processes: Processes) -> ModelConfig:
    """With batch norm as this device has it."""
    if model.batch_norm != "synchronised" or device.type != "cpu" or processes.count == 1:
        return model
    if processes.rank == 0:
        said = "torch synchronises batch norm on GPUs only: each process takes the statistics of its own images"
        print(f"train: model.batch_norm: {said}", file=sys.stderr, flush=True)  # noqa: T201
    return replace(model, batch_norm="trained")


def make_trainer(
    params: Params,
    *,
    batches: Batches,
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
        detector = build(_batch_norm(_rooted(params.model), device, processes), classes).to(device)
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
        criterion=Criterion(
            params.model, box_loss=params.loss, mean_over_processes=processes.mean, processes=processes.count
        ),
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
