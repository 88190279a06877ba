"""Builds a trainer, its batches and its validation from parameters and unified data."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from fcos.config import InputSize
from fcos.criterion import Criterion
from fcos.detector import Detector
from fcos.fast.compiled import CompiledModel
from fcos.postprocess import Postprocess
from fcos.training.amp import Precision, fastest_precision
from fcos.training.batch import Batch
from fcos.training.checkpoints import Checkpoint, CheckpointError
from fcos.training.distributed import SINGLE_PROCESS, Processes
from fcos.training.ema import ModelEMA
from fcos.training.guards import NonFiniteLossError, NothingToLearnError
from fcos.training.history import Callback, Row
from fcos.training.optimization import Plateau, make_optimizer, make_plateau, make_schedule
from fcos.training.trainer import Trainer, TrainingInterrupted
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.digests import file_digests
from pipeline.errors import PipelineError
from pipeline.evaluation import coco
from pipeline.inference.detect import detect_split
from pipeline.inference.device import choose_device, prepare_device
from pipeline.inference.views import Views, detect_in_views
from pipeline.loading.batches import Batches
from pipeline.loading.cache import ImageCache
from pipeline.loading.dataset import TrainingData
from pipeline.loading.tiles import TiledData
from pipeline.loading.transforms import Augmentation
from pipeline.params import Params, TrainParams
from pipeline.training import compiler_cache
from pipeline.training.initial_weights import make_detector
from pipeline.training.overfit import STEPS_PER_EPOCH, TARGET_AP50, RepeatedBatches
from pipeline.workspace import state_dir

_GPU_LOG_EVERY = 20  # steps on a GPU whose losses are copied to the host together


class EpochBatches(Protocol):
    """The type of `Trainer.batches`, with its length: the number of steps per epoch."""

    def __len__(self) -> int: ...

    def __call__(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]: ...


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Converts the errors that end a training into one-line errors.

    Raises:
        PipelineError: the loss is not finite, there is nothing to learn, the state can't be saved, or the memory of the
            GPU does not suffice.
    """
    try:
        yield
    except (NonFiniteLossError, NothingToLearnError, CheckpointError) as error:
        raise PipelineError(f"{error}; {_remedy(error)}") from None
    except torch.OutOfMemoryError as error:
        cause = str(error).splitlines()[0]
        raise PipelineError(
            f"{cause} Raise train.accumulate (the same batch in smaller parts), lower train.batch_size or train.size, "
            "or set train.precision to bf16; training then starts from the beginning"
        ) from None


def _remedy(error: NonFiniteLossError | NothingToLearnError | CheckpointError) -> str:
    match error:
        case CheckpointError():
            return "free some space and run the command again: training resumes from the previous state"
        case NothingToLearnError(reason="no_objects"):
            return "look at `fcos show-batches`, and weaken train.augment"
        case NothingToLearnError():
            return (
                "look at `fcos explain`, and check whether model.levels and model.regression_ranges fit the sizes of "
                "the objects at train.size"
            )
        case NonFiniteLossError(skipped_steps=0):
            bf16 = ", or train.precision bf16" if error.loss_scaling else ""
            return f"try a lower train.lr, a longer train.warmup or a smaller train.clip_grad_norm{bf16}"
        case _:
            return "set train.precision to bf16 or float32, or try a lower train.lr"


def make_batches(
    params: Params, split: AnnotationSet, raw: Path, processes: Processes = SINGLE_PROCESS, first_epoch: int = 0
) -> EpochBatches:
    """The training batches that the parameters describe.

    Args:
        first_epoch: number of epochs before the first one.

    Raises:
        PipelineError: the images contain no trainable object, or the disk has no space for the cache.
    """
    train, data = params.train, _training_data(params, split, raw, first_epoch)
    batches = Batches(
        data=data,
        batch_size=train.batch_size,
        workers=params.machine.workers,
        seed=params.seed,
        canvas=train.input_size.canvas,
        group_by_aspect_ratio=train.group_by_aspect_ratio,
        repeat_factors=data.repeat_factors(train.repeat_threshold) if train.repeat_threshold else None,
        accumulate=train.accumulate,
        rank=processes.rank,
        world_size=processes.world_size,
        pin_memory=choose_device(params.machine.device).type == "cuda",
    )
    return RepeatedBatches(batches, STEPS_PER_EPOCH) if train.overfit else batches


def _training_data(params: Params, split: AnnotationSet, raw: Path, first_epoch: int) -> TrainingData | TiledData:
    train = params.train
    cache = _open_cache(train, split, raw) if params.machine.cache else None
    data = TrainingData(
        split,
        raw,
        augmentation=Augmentation(
            params=train.augment,
            input_size=train.input_size,
            multi_scale=train.multi_scale,
            epochs=first_epoch + train.epochs,
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
    if train.tiles is None:
        return data
    return TiledData(data, train.tiles, min_visibility=train.min_visibility, empty_tiles=train.empty_tiles)


def _open_cache(train: TrainParams, split: AnnotationSet, raw: Path) -> ImageCache:
    """A cache at the input size, or at the largest one with multi_scale."""
    largest = InputSize((train.multi_scale[1], train.size[1])) if train.multi_scale else train.input_size
    digests = file_digests([raw / image.file_name for image in split.images])
    return ImageCache(state_dir() / "cache", raw, split.images, digests, largest)


def make_validation(
    params: Params,
    split: AnnotationSet,
    raw: Path,
    interrupted: Callable[[], bool] = lambda: False,
    processes: Processes = SINGLE_PROCESS,
    on_detections: Callable[[Sequence[Detection]], None] = lambda _: None,
) -> Callable[[Detector], Row]:
    """The validation during training: a function that returns AP and AP50 of a detector.

    Each process detects objects in its share of the images. The first process computes the metrics with the fast
    engine, and all processes return them. Post-processing has its defaults, whatever params.yaml says, so changing it
    there does not retrain. With train.tiles, objects are detected in the same tiles.

    Args:
        interrupted: whether to stop; if it is true in one process, the function raises TrainingInterrupted in all of
            them, between two batches.
        on_detections: receives all detections of a validation, in the first process.
    """

    def check_interrupted(_images: int) -> None:
        if processes.max(int(interrupted())):
            raise TrainingInterrupted

    def validate(detector: Detector) -> Row:
        processes.broadcast_buffers(detector)
        share = _detect_share(params.train, detector, split, raw, processes, check_interrupted)
        # Tuples are exchanged in a tenth of the time that objects take.
        gathered = processes.all_gather_object([(d.image_id, d.category_id, d.bbox, d.score) for d in share])
        row: Row | None = None
        if processes.rank == 0:
            detections = _flatten(gathered)
            on_detections(detections)
            row = _measure(split, detections)
        measured: Row = processes.broadcast_object(row)
        return measured

    return validate


def _detect_share(
    train: TrainParams,
    detector: Detector,
    split: AnnotationSet,
    raw: Path,
    processes: Processes,
    progress: Callable[[int], None],
) -> Iterator[Detection]:
    """The detections in this process's share of the images."""
    batch_size = max(1, train.batch_size // processes.world_size)
    detect = partial(
        detect_in_views,
        detector,
        input_size=train.input_size,
        postprocess=Postprocess(),
        views=Views(tiles=train.tiles),
        batch_size=batch_size,
    )
    return detect_split(
        detect,
        split,
        raw,
        batch_size=batch_size,
        progress=progress,
        rank=processes.rank,
        world_size=processes.world_size,
    )


def _flatten(gathered: Sequence[Sequence[tuple[Any, ...]]]) -> list[Detection]:
    # Sorted by image, so that the result does not depend on the processes: the order breaks ties between equal scores.
    return sorted((Detection(*values) for values in chain(*gathered)), key=lambda detection: detection.image_id)


def _measure(split: AnnotationSet, detections: Sequence[Detection]) -> Row:
    metrics = coco.fast_ap(split, detections)
    return {name: metrics[name] or 0.0 for name in ("AP", "AP50")}


def to_iterations(train: TrainParams, steps_per_epoch: int, value: float) -> int:
    """Converts a length from the unit train.schedule_unit to a number of steps."""
    units = {"fraction": train.epochs * steps_per_epoch, "epochs": steps_per_epoch, "iterations": 1}
    return round(value * units[train.schedule_unit])


def learning_rate(train: TrainParams) -> float:
    """The peak learning rate, scaled in proportion to the batch size (Goyal et al., 1706.02677)."""
    return train.lr * train.batch_size / (train.base_batch_size or train.batch_size)


def make_trainer(
    params: Params,
    *,
    batches: EpochBatches,
    validate: Callable[[Detector], Row],
    classes: Sequence[str],
    callback: Callback,
    checkpoint: Checkpoint | None,
    processes: Processes = SINGLE_PROCESS,
    interrupted: Callable[[], bool] = lambda: False,
) -> Trainer:
    """The trainer that the parameters describe, its weights initialized from the seed or taken from a file.

    Args:
        classes: names of the classes, in the order of their labels.
        checkpoint: where the state for a resume is kept; None: it is not saved.

    Raises:
        PipelineError: weights to start from are missing or unusable.
    """
    train, device, warn = params.train, prepare_device(params.machine.device), partial(_write_line, processes)
    detector = make_detector(params, classes, device, warn, world_size=processes.world_size)
    optimizer = _make_optimizer(train, detector)
    return Trainer(
        detector=detector,
        criterion=_make_criterion(params, processes),
        optimizer=optimizer,
        schedule=_make_schedule(train, optimizer, len(batches)),
        plateau=_make_plateau(train, optimizer, len(batches)),
        precision=_make_precision(params, device, warn),
        processes=processes,
        compile_model=_make_compiler(train, warn),
        seed=params.seed,
        backbone_frozen_epochs=train.backbone_frozen_epochs,
        score="AP50" if train.overfit else "AP",
        target_score=TARGET_AP50 if train.overfit else math.inf,
        patience=train.early_stopping,
        checkpoint_steps=params.machine.checkpoint_steps,
        log_every=1 if device.type == "cpu" else _GPU_LOG_EVERY,
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


def _make_criterion(params: Params, processes: Processes) -> Criterion:
    return Criterion(
        params.model,
        box_loss=params.loss,
        mean_over_processes=processes.mean,
        processes=processes.world_size,
    )


def _make_optimizer(train: TrainParams, detector: Detector) -> Optimizer:
    return make_optimizer(
        detector,
        name=train.optimizer,
        lr=learning_rate(train),
        weight_decay=train.weight_decay,
        momentum=train.momentum,
        backbone_lr_factor=train.backbone_lr_factor,
    )


def _make_schedule(train: TrainParams, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    return make_schedule(
        optimizer,
        name=train.schedule,
        steps=train.epochs * steps_per_epoch,
        warmup=to_iterations(train, steps_per_epoch, train.warmup),
        drops=[to_iterations(train, steps_per_epoch, step) for step in train.steps],
        gamma=train.gamma,
    )


def _make_plateau(train: TrainParams, optimizer: Optimizer, steps_per_epoch: int) -> Plateau | None:
    if train.schedule != "plateau":
        return None
    warmup = to_iterations(train, steps_per_epoch, train.warmup)
    return make_plateau(optimizer, patience=train.plateau_patience, gamma=train.gamma, warmup=warmup)


def resolve_precision(params: Params, device: torch.device | None = None) -> Precision:
    """The precision that train.precision means on a device, by default the one that the parameters choose."""
    device, name = device or choose_device(params.machine.device), params.train.precision
    return Precision(fastest_precision(device) if name == "auto" else name, device)


def _make_precision(params: Params, device: torch.device, warn: Callable[[str], None]) -> Precision:
    precision = resolve_precision(params, device)
    if precision.warning:
        warn(f"train.precision: {precision.warning}")
    return precision


def _make_compiler(train: TrainParams, warn: Callable[[str], None]) -> Callable[[nn.Module], nn.Module]:
    """The function that compiles the network if train.compile is set; with letterbox, all batches have one shape."""
    if not train.compile:
        return lambda network: network
    compiler_cache.use_private_folder()
    return partial(CompiledModel, fixed_shape=train.letterbox, warn=lambda line: warn(f"train.compile: {line}"))


def _write_line(processes: Processes, line: str) -> None:
    if processes.rank == 0:
        tqdm.write(f"train: {line}", file=sys.stderr)  # above the progress bar
