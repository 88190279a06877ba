"""`fcos check`: measures a few training steps, one validation and one checkpoint before a long training."""

import math
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from fcos.detector import Detector
from fcos.training.batch import Batch
from fcos.training.checkpoints import Checkpoint
from fcos.training.history import Row
from fcos.training.trainer import Trainer
from pipeline.analysis.advice import advice
from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError, count_noun, format_table
from pipeline.inference.device import choose_device
from pipeline.loading.batches import Batches
from pipeline.loading.tiles import TiledData
from pipeline.params import Params
from pipeline.training.build import EpochBatches, make_batches, make_trainer, make_validation, one_line_errors
from pipeline.training.launch import num_processes
from pipeline.training.overfit import overfit_subset

_STEPS = 3  # the first one is not timed: it allocates memory and selects algorithms


@dataclass(frozen=True)
class Measurements:
    """Times in seconds, sizes in bytes."""

    device: str
    processes: int
    epochs: int
    steps: int  # per epoch
    batch_size: int  # over all processes
    val_images: int  # in the validation split
    validations: int
    workers: int  # per process
    decode_time: float  # per image: decoding and augmentation by one worker
    step_time: float  # forward, losses, backward, optimizer and moving average
    validation_time: float  # per image
    save_time: float
    load_time: float
    state_size: int
    peak_memory: int
    first_loss: float

    @property
    def epoch_time(self) -> float:
        """Time to train one epoch. Workers decode images during the training steps."""
        decoding = self.decode_time * self.batch_size / self.processes
        if not self.workers:
            return self.steps * (decoding + self.step_time)
        return self.steps * max(decoding / self.workers, self.step_time)

    @property
    def whole_validation_time(self) -> float:
        """Time of one validation; the processes share its images."""
        return self.validation_time * self.val_images / self.processes

    @property
    def training_time(self) -> float:
        """Time of the whole training, validations included."""
        return self.epochs * self.epoch_time + self.validations * self.whole_validation_time


class StepClock:
    """A callback that records the time of each step."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.times: list[float] = []

    def on_step(self, row: Row, images: int) -> None:  # noqa: ARG002
        self.rows.append(row)
        self.times.append(time.perf_counter())

    def on_validation(self, row: Row) -> None:
        """Does nothing: TimedValidation measures validations."""


class TimedValidation:
    """A validation that records how long it took."""

    def __init__(self, params: Params, split: AnnotationSet, raw: Path) -> None:
        self.validate = make_validation(params, split, raw)
        self.seconds = 0.0

    def __call__(self, detector: Detector) -> Row:
        started = time.perf_counter()
        row = self.validate(detector)
        self.seconds = time.perf_counter() - started
        return row


@dataclass(frozen=True)
class LoadedBatches:
    """A few steps' batches in memory, in place of an epoch of `length` steps."""

    steps: Sequence[list[Batch]]
    length: int

    def __len__(self) -> int:
        return self.length

    def __call__(self, epoch: int, first: int = 0) -> "islice[list[Batch]]":  # noqa: ARG002
        """The same batches in every epoch."""
        return islice(self.steps, first, None)


def read_splits(home: Path) -> tuple[AnnotationSet, AnnotationSet]:
    """The training and validation splits of a workspace.

    Raises:
        PipelineError: a split doesn't exist yet, or breaks the format.
    """
    paths = [home / f"data/unified/{name}.json" for name in ("train", "val")]
    for path in paths:
        if not path.is_file():
            raise PipelineError(f"{path}: does not exist yet; run `dvc repro convert` first")
    return annotations.read(paths[0]), annotations.read(paths[1])


def check(params: Params, train: AnnotationSet, val: AnnotationSet, raw: Path) -> tuple[Measurements, list[str]]:
    """Runs a few training steps, a validation, and saves and loads a checkpoint in a temporary folder.

    Returns:
        The measurements, and lines of advice.

    Raises:
        PipelineError: training with these parameters would fail.
    """
    processes = num_processes(params)  # fails first if the batch can't be divided
    if params.train.overfit:
        params, train = overfit_subset(params, train, processes)
        val = train
    if not val.images:
        raise PipelineError("data/unified/val.json: has no images to validate on; see convert.val_fraction")
    steps = len(make_batches(replace(params, machine=replace(params.machine, cache=False)), train, raw))
    with TemporaryDirectory(prefix="fcos-check-") as folder, one_line_errors():
        checkpoint = Checkpoint(Path(folder) / "state")
        measurements = _measure(params, train, val, raw, processes=processes, steps=steps, checkpoint=checkpoint)
    return measurements, [] if params.train.overfit else advice(params, train, val, steps=steps)


def _measure(
    params: Params,
    train: AnnotationSet,
    val: AnnotationSet,
    raw: Path,
    *,
    processes: int,
    steps: int,
    checkpoint: Checkpoint,
) -> Measurements:
    device = choose_device(params.machine.device)
    if device.type == "cpu":
        processes = 1  # processes share the cores, so a single process is as fast as all of them together
    share = share_of_process(params, processes)
    batches, decode_time = _load(share, train, raw, loaders=processes * max(1, params.machine.workers))
    clock = StepClock()
    sample = val.subset(val.images[:: -(-len(val.images) // share.train.batch_size)])
    validation = TimedValidation(share, sample, raw)
    trainer = make_trainer(
        share,
        batches=batches,
        validate=validation,
        classes=[category.name for category in train.categories],
        callback=clock,
        checkpoint=checkpoint,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    save_time, load_time = _run(trainer)
    return Measurements(
        device=torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        processes=processes,
        epochs=params.train.epochs,
        steps=steps,
        batch_size=params.train.batch_size,
        val_images=len(val.images),
        validations=-(-params.train.epochs // params.train.validate_every),
        workers=params.machine.workers,
        decode_time=decode_time,
        step_time=(clock.times[-1] - clock.times[0]) / (_STEPS - 1),
        validation_time=validation.seconds / len(sample.images),
        save_time=save_time,
        load_time=load_time,
        state_size=max(file.stat().st_size for file in checkpoint.folder.rglob("*") if file.is_file()),
        peak_memory=_peak_memory(device),
        first_loss=clock.rows[0]["total"],
    )


def share_of_process(params: Params, processes: int) -> Params:
    """Parameters for the work of one of several processes: no workers to start, no cache file, nothing frozen."""
    train = replace(params.train, batch_size=params.train.batch_size // processes, backbone_frozen_epochs=0)
    return replace(params, train=train, machine=replace(params.machine, workers=0, cache=False))


def _load(params: Params, train: AnnotationSet, raw: Path, loaders: int) -> tuple[LoadedBatches, float]:
    """A few steps' batches, and the decoding time per image or region. Batches repeat if an epoch has too few steps.

    Args:
        loaders: processes that load images.
    """
    batches = make_batches(params, train, raw)
    steps, seconds = _time_steps(batches)
    images = sum(len(batch.names) for step in steps for batch in step)
    load_time = seconds / images
    if isinstance(batches, Batches) and isinstance(data := batches.data, TiledData):
        # These few regions are the first ones of their images: again, now that the images are in memory.
        decoded, (_, cropping) = data.num_decoded, _time_steps(batches)
        decodings = min(1.0, loaders * len(data.data) / data.epoch_length)
        load_time = cropping / images + decodings * max(0.0, seconds - cropping) / decoded
    return LoadedBatches((steps * _STEPS)[:_STEPS], len(batches)), load_time


def _time_steps(batches: EpochBatches) -> tuple[list[list[Batch]], float]:
    started = time.perf_counter()
    return list(islice(batches(0), _STEPS)), time.perf_counter() - started


def _run(trainer: Trainer) -> tuple[float, float]:
    """Runs a few steps and validations. Returns the time to save a checkpoint, and the time to load it."""
    trainer.epochs, trainer.validate_every, trainer.log_every = 1, 1, 1
    trainer.checkpoint_seconds, trainer.checkpoint_steps = math.inf, _STEPS + 1
    trainer.fit()
    trainer.validate(trainer.result)  # again: the first validation includes the selection of algorithms
    assert trainer.checkpoint
    started = time.perf_counter()
    trainer.save()
    trainer.checkpoint.wait()
    saved = time.perf_counter()
    trainer.resume()
    return saved - started, time.perf_counter() - saved


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    status = Path("/proc/self/status")  # Linux: the peak of this process alone, without the peak of its parent
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) << 10
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def report(measurements: Measurements) -> str:
    """The measurements as a table."""
    m = measurements
    processes = f", {m.processes} processes" if m.processes > 1 else ""
    workers = f"{m.workers} workers" if m.workers else "the training process itself"
    share = m.batch_size / m.processes
    rows = [
        ("decoding and augmentation", f"{1 / m.decode_time:,.1f} images/s by one core; done by {workers}"),
        ("training step", f"{share / m.step_time:,.1f} images/s ({m.step_time:,.3f} s for {share:g} images)"),
        ("validation", f"{1 / m.validation_time:,.1f} images/s, with an untrained detector"),
        ("peak memory", f"{m.peak_memory / 2**20:,.0f} MiB"),
        (
            "checkpoint",
            f"{m.state_size / 2**20:,.1f} MiB; {m.save_time:.2f} s to save, {m.load_time:.2f} s to load",
        ),
        ("first loss", f"{m.first_loss:.3f}"),
        (
            "whole training",
            f"about {format_duration(m.training_time)}: {count_noun(m.epochs, 'epoch')} of "
            f"{count_noun(m.steps, 'step')}, {count_noun(m.validations, 'validation')} of "
            f"{count_noun(m.val_images, 'image')}",
        ),
    ]
    return f"{m.device}{processes}\n{format_table(rows, 'll')}"


def format_duration(seconds: float) -> str:
    """A duration in its two largest units: 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
