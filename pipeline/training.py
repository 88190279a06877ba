"""Parameters and unified data to a trainer: the parts of fcos/, put together."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fcos.config import ModelConfig
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.postprocess import Postprocess
from fcos.training.checkpoints import Checkpoint
from fcos.training.ema import make_ema
from fcos.training.engine import Row, Trainer, Watcher
from fcos.training.optimization import make_optimizer, make_schedule
from pipeline.annotations import AnnotationSet
from pipeline.errors import PipelineError
from pipeline.inference import detect_split
from pipeline.loader import Augmentation, Batches, TrainingData
from pipeline.metrics import coco
from pipeline.model import choose_device
from pipeline.params import Params
from pipeline.workspace import from_root


def make_batches(params: Params, split: AnnotationSet, raw: Path) -> Batches:
    """The training batches that the parameters describe."""
    train = params.train
    data = TrainingData(
        split,
        raw,
        augmentation=Augmentation(size=train.size, zoom=train.scale, flip_probability=train.flip, seed=params.seed),
        difficult=train.difficult,
        empty=train.empty,
    )
    return Batches(data=data, batch_size=train.batch_size, workers=train.workers, seed=params.seed)


def make_validation(params: Params, split: AnnotationSet, raw: Path) -> Callable[[Detector], Row]:
    """What a detector is measured by after an epoch: AP and AP50, by the fast engine."""

    def validate(detector: Detector) -> Row:
        found = detect_split(
            detector,
            split,
            raw,
            size=params.train.size,
            postprocess=Postprocess(),
            batch_size=params.train.batch_size,
        )
        measured = coco.fast_ap(split, list(found))
        return {name: measured[name] or 0.0 for name in ("AP", "AP50")}

    return validate


def _rooted(model: ModelConfig) -> ModelConfig:
    """With its file of weights under the main repository's root: a temporary workspace has no copy of it."""
    return replace(model, pretrained=str(from_root(model.pretrained))) if isinstance(model.pretrained, str) else model


def make_trainer(
    params: Params,
    *,
    batches: Batches,
    validate: Callable[[Detector], Row],
    classes: int,
    watcher: Watcher,
    checkpoint: Checkpoint | None,
) -> Trainer:
    """Everything that `Trainer.fit` needs, weights drawn from the seed.

    Raises:
        PipelineError: ImageNet weights were asked for and aren't there.
    """
    train = params.train
    torch.manual_seed(params.seed)
    try:
        detector = build(_rooted(params.model), classes).to(choose_device(train.device))
    except ValueError as error:
        raise PipelineError(f"params.yaml: model.{error}") from None
    optimizer = make_optimizer(
        detector, name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
    )
    return Trainer(
        detector=detector,
        criterion=Criterion(params.model, box_loss=params.loss),
        optimizer=optimizer,
        schedule=make_schedule(
            optimizer,
            name=train.schedule,
            steps=train.epochs * len(batches),
            warmup=train.warmup,
            drops=train.steps,
        ),
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
