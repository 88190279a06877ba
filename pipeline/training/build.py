"""Parameters and unified data to a trainer: the parts of fcos/, put together."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from fcos.config import InputSize, ModelConfig
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.fast.compiled import Compiled
from fcos.postprocess import Postprocess
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.checkpoints import Checkpoint, CheckpointError
from fcos.training.distributed import SINGLE_PROCESS, Processes
from fcos.training.ema import ModelEMA
from fcos.training.guards import NonFiniteLossError, NothingToLearnError
from fcos.training.history import Callback, Row
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.trainer import Trainer, TrainingInterrupted
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.evaluation import coco
from pipeline.inference.detect import detect_split
from pipeline.inference.device import choose_device
from pipeline.loading.batches import Batches
from pipeline.loading.cache import ImageCache
from pipeline.loading.dataset import TrainingData
from pipeline.loading.transforms import Augmentation
from pipeline.params import Params, TrainParams
from pipeline.training.overfit import STEPS_PER_EPOCH, TARGET_AP50, RepeatedBatches
from pipeline.workspace import from_root, state_dir

_FETCHED_TOGETHER = 20  # steps on a GPU whose losses are waited for together


class EpochBatches(Protocol):
    """What `Trainer.batches` is, with the number of steps of an epoch."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]: ...


@contextmanager
def one_line_errors() -> Iterator[None]:
    """What ends a training by itself, as the one line that people see.

    Raises:
        PipelineError: the loss isn't finite, nothing is learned, the state can't be saved, or a GPU's memory is too
            small.
    """
    try:
        yield
    except (NonFiniteLossError, NothingToLearnError, CheckpointError) as error:
        raise PipelineError(str(error)) from None
    except torch.OutOfMemoryError as error:
        first = str(error).splitlines()[0]
        raise PipelineError(
            f"{first} Raise train.accumulate (the same batch in smaller parts), lower train.batch_size or train.size, "
            "or set train.precision to bf16"
        ) from None


def make_batches(
    params: Params, split: AnnotationSet, raw: Path, processes: Processes = SINGLE_PROCESS
) -> EpochBatches:
    """The training batches that the parameters describe.

    Raises:
        PipelineError: there is nothing to learn from, or no room for the cache.
    """
    batches = _make_batches(params, split, raw, processes)
    return RepeatedBatches(batches, STEPS_PER_EPOCH) if params.train.overfit else batches


def _make_batches(params: Params, split: AnnotationSet, raw: Path, processes: Processes) -> Batches:
    train = params.train
    cache = _cache(train, split, raw) if params.machine.cache else None
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
        include_difficult=train.include_difficult,
        include_empty=train.include_empty,
        include_crowd=train.include_crowd,
        cache=cache,
    )
    if train.max_images:
        data = data.random_subset(train.max_images, params.seed)
    if cache:
        cache.check_free_space(data.image_indices.numpy())
    return Batches(
        data=data,
        batch_size=train.batch_size,
        workers=params.machine.workers,
        seed=params.seed,
        canvas=train.input_size.canvas,
        group_by_aspect_ratio=train.group_by_aspect_ratio,
        accumulate=train.accumulate,
        rank=processes.rank,
        world_size=processes.world_size,
        pin_memory=choose_device(params.machine.device).type == "cuda",
    )


def _cache(train: TrainParams, split: AnnotationSet, raw: Path) -> ImageCache:
    """At the size of zoom 1, or at the largest that is drawn."""
    largest = InputSize((train.multi_scale[1], train.size[1])) if train.multi_scale else train.input_size
    return ImageCache(state_dir() / "cache", raw, split.images, largest)


def make_validation(
    params: Params,
    split: AnnotationSet,
    raw: Path,
    interrupted: Callable[[], bool] = lambda: False,
    processes: Processes = SINGLE_PROCESS,
) -> Callable[[Detector], Row]:
    """What a detector is measured by after an epoch: AP and AP50, by the fast engine.

    Every process detects in its share of the images; the first one measures, and all get its row. TrainingInterrupted
    is raised between two batches, in all of them, where `interrupted` says so in one.
    """

    def go_on(_images: int) -> None:
        if processes.max(int(interrupted())):
            raise TrainingInterrupted

    def validate(detector: Detector) -> Row:
        processes.broadcast_buffers(detector)
        share = detect_split(
            detector,
            split,
            raw,
            input_size=params.train.input_size,
            postprocess=Postprocess(),
            batch_size=max(1, params.train.batch_size // processes.world_size),
            progress=go_on,
            rank=processes.rank,
            world_size=processes.world_size,
        )
        # As plain values, which pass in a tenth of the time.
        found = processes.all_gather_object([(one.image_id, one.category_id, one.bbox, one.score) for one in share])
        row: Row = processes.broadcast_object(_measured(split, found) if processes.rank == 0 else None)
        return row

    return validate


def _measured(split: AnnotationSet, found: Sequence[Sequence[tuple[Any, ...]]]) -> Row:
    # In the order of images, whichever process had them: of equal scores, the first detection counts first.
    detections = sorted((Detection(*values) for values in chain(*found)), key=lambda one: one.image_id)
    measured = coco.fast_ap(split, detections)
    return {name: measured[name] or 0.0 for name in ("AP", "AP50")}


def to_iterations(train: TrainParams, steps: int, value: float) -> int:
    """A length in the unit of train.schedule_unit as a number of steps.

    Args:
        steps: of one epoch.
    """
    of_one = {"fraction": train.epochs * steps, "epochs": steps, "iterations": 1}[train.schedule_unit]
    return round(value * of_one)


def learning_rate(train: TrainParams) -> float:
    """The peak, for the batch that there really is (Goyal et al., 1706.02677)."""
    return train.lr * train.batch_size / (train.base_batch_size or train.batch_size)


def _rooted(model: ModelConfig) -> ModelConfig:
    """With its file of weights under the main repository's root: a temporary workspace has no copy of it."""
    return replace(model, pretrained=str(from_root(model.pretrained))) if isinstance(model.pretrained, str) else model


def _batch_norm(model: ModelConfig, device: torch.device, processes: Processes) -> ModelConfig:
    """With batch norm as this device has it."""
    if model.batch_norm != "synchronized" or device.type != "cpu" or processes.world_size == 1:
        return model
    if processes.rank == 0:
        said = "torch synchronizes batch norm on GPUs only: each process takes the statistics of its own images"
        print(f"train: model.batch_norm: {said}", file=sys.stderr, flush=True)  # noqa: T201
    return replace(model, batch_norm="trained")


def make_trainer(
    params: Params,
    *,
    batches: EpochBatches,
    validate: Callable[[Detector], Row],
    classes: int,
    callback: Callback,
    checkpoint: Checkpoint | None,
    processes: Processes = SINGLE_PROCESS,
    interrupted: Callable[[], bool] = lambda: False,
) -> Trainer:
    """Everything that `Trainer.fit` needs, weights drawn from the seed.

    Raises:
        PipelineError: ImageNet weights were asked for and aren't there.
    """
    train = params.train
    device = choose_device(params.machine.device)
    detector = _detector(params, classes, device, processes)
    optimizer = _optimizer(train, detector)
    return Trainer(
        detector=detector,
        criterion=Criterion(
            params.model, box_loss=params.loss, mean_over_processes=processes.mean, processes=processes.world_size
        ),
        optimizer=optimizer,
        schedule=_schedule(train, optimizer, len(batches)),
        precision=_precision(train, device, processes),
        processes=processes,
        compile_model=_compiled(train, processes),
        seed=params.seed,
        backbone_frozen_epochs=train.backbone_frozen_epochs,
        score="AP50" if train.overfit else "AP",
        target_score=TARGET_AP50 if train.overfit else math.inf,
        patience=train.early_stopping,
        checkpoint_steps=params.machine.checkpoint_steps,
        log_every=1 if device.type == "cpu" else _FETCHED_TOGETHER,
        interrupted=interrupted,
        ema=ModelEMA(detector, train.ema_decay) if train.ema_decay else None,
        batches=batches,
        validate=validate,
        epochs=train.epochs,
        validate_every=train.validate_every,
        clip_grad_norm=train.clip_grad_norm,
        callback=callback,
        checkpoint=checkpoint,
        checkpoint_seconds=params.machine.checkpoint_seconds,
    )


def _detector(params: Params, classes: int, device: torch.device, processes: Processes) -> Detector:
    torch.manual_seed(params.seed)
    try:
        detector = build(_batch_norm(_rooted(params.model), device, processes), classes).to(device)
    except ValueError as error:
        raise PipelineError(f"params.yaml: model.{error}") from None
    if not params.train.channels_last:
        detector.set_memory_format(torch.contiguous_format)
    return detector


def _optimizer(train: TrainParams, detector: Detector) -> Optimizer:
    return make_optimizer(
        detector,
        name=train.optimizer,
        lr=learning_rate(train),
        weight_decay=train.weight_decay,
        momentum=train.momentum,
    )


def _schedule(train: TrainParams, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Over the whole training, of so many steps an epoch."""
    return make_schedule(
        optimizer,
        name=train.schedule,
        steps=train.epochs * steps,
        warmup=to_iterations(train, steps, train.warmup),
        drops=[to_iterations(train, steps, step) for step in train.steps],
        gamma=train.gamma,
    )


def _precision(train: TrainParams, device: torch.device, processes: Processes) -> Precision:
    precision = Precision(train.precision, device)
    if precision.warning:
        _tell(processes, precision.warning)
    return precision


def _compiled(train: TrainParams, processes: Processes) -> Callable[[nn.Module], nn.Module]:
    """What the network is trained through. Images on a canvas all have its shape."""
    if not train.compile:
        return lambda network: network
    return partial(Compiled, fixed=train.letterbox, tell=partial(_tell, processes))


def _tell(processes: Processes, line: str) -> None:
    if processes.rank == 0:
        tqdm.write(f"train: {line}", file=sys.stderr)  # beside the bar
