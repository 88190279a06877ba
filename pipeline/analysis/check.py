"""`fcos check`: one step of everything, in seconds, before a person commits a day to a training."""

import math
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
from pipeline.errors import PipelineError
from pipeline.inference.device import choose_device
from pipeline.params import MachineParams, Params
from pipeline.training.build import make_batches, make_trainer, make_validation, one_line_errors
from pipeline.training.overfit import overfit_subset

_STEPS = 3  # the first of them isn't timed: it asks for memory, and chooses algorithms


@dataclass(frozen=True)
class Measured:
    """What was seen. Times in seconds, sizes in bytes."""

    device: str
    processes: int
    epochs: int
    steps: int  # of an epoch
    images: int  # of a step, over all processes
    judged: int  # images of the validation split
    validations: int
    workers: int  # for each process
    decoding: float  # of one image, decoded and augmented by one worker
    step: float  # forward, losses, backward, optimizer and average
    validating: float  # of one image
    saving: float
    loading: float
    state: int
    memory: int  # at its peak
    loss: float  # the first step's

    @property
    def epoch(self) -> float:
        """An epoch's training: decoding goes on beside it where it has workers."""
        decoding = self.decoding * self.images / self.processes
        return self.steps * (max(decoding / self.workers, self.step) if self.workers else decoding + self.step)

    @property
    def validation(self) -> float:
        """One whole validation, which is shared out."""
        return self.validating * self.judged / self.processes

    @property
    def whole(self) -> float:
        """The whole training."""
        return self.epochs * self.epoch + self.validations * self.validation


class Clock:
    """Notes when each step is told."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.at: list[float] = []

    def on_step(self, row: Row, images: int) -> None:  # noqa: ARG002
        self.rows.append(row)
        self.at.append(time.perf_counter())

    def on_validation(self, row: Row) -> None:
        """Timed where it is done."""


def read(home: Path) -> tuple[AnnotationSet, AnnotationSet]:
    """The splits to learn from and to be judged on.

    Raises:
        PipelineError: they aren't there, or break the format.
    """
    paths = [home / f"data/unified/{name}.json" for name in ("train", "val")]
    for path in paths:
        if not path.is_file():
            raise PipelineError(f"{path}: not there yet: run `dvc repro convert` first")
    return annotations.read(paths[0]), annotations.read(paths[1])


def check(params: Params, train: AnnotationSet, val: AnnotationSet, raw: Path) -> tuple[Measured, list[str]]:
    """Runs one step of everything; what it needs on a disk lies in a temporary folder.

    Returns:
        What was measured, and advice.

    Raises:
        PipelineError: what training would end with.
    """
    if params.train.overfit:
        params, train = overfit_subset(params, train)
        val = train
    steps = len(make_batches(replace(params, machine=replace(params.machine, cache=False)), train, raw))
    with TemporaryDirectory(prefix="fcos-check-") as folder, one_line_errors():
        measured = _measure(params, train, val, raw, steps=steps, checkpoint=Checkpoint(Path(folder) / "state"))
    return measured, [] if params.train.overfit else advice(params, train, val, steps=steps)


def _measure(
    params: Params, train: AnnotationSet, val: AnnotationSet, raw: Path, *, steps: int, checkpoint: Checkpoint
) -> Measured:
    device = choose_device(params.machine.device)
    processes = _processes(params.machine, device)
    # The share of one process, by itself: no worker that would have to start first, no file kept, nothing frozen.
    share = replace(
        params,
        train=replace(
            params.train,
            batch_size=max(params.train.accumulate, params.train.batch_size // processes),
            backbone_frozen_epochs=0,
        ),
        machine=replace(params.machine, workers=0, cache=False),
    )
    loaded, decoding = _load(share, train, raw)
    clock = Clock()
    part = val.subset(val.images[:: -(-len(val.images) // share.train.batch_size)])
    judging = Judging(share, part, raw)
    trainer = make_trainer(
        share,
        batches=loaded,
        validate=judging,
        classes=len(train.categories),
        callback=clock,
        checkpoint=checkpoint,
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    saving, loading = _run(trainer)
    return Measured(
        device=torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        processes=processes,
        epochs=params.train.epochs,
        steps=steps,
        images=params.train.batch_size,
        judged=len(val.images),
        validations=-(-params.train.epochs // params.train.validate_every),
        workers=params.machine.workers,
        decoding=decoding,
        step=(clock.at[-1] - clock.at[0]) / (_STEPS - 1),
        validating=judging.seconds / len(part.images),
        saving=saving,
        loading=loading,
        state=max(file.stat().st_size for file in checkpoint.folder.rglob("*") if file.is_file()),
        memory=_peak(device),
        loss=clock.rows[0]["total"],
    )


@dataclass(frozen=True)
class Loaded:
    """Steps that wait in memory."""

    steps: Sequence[list[Batch]]
    length: int

    def __len__(self) -> int:
        return self.length

    def __call__(self, epoch: int, first: int = 0) -> "islice[list[Batch]]":  # noqa: ARG002
        """The same in every epoch."""
        return islice(self.steps, first, None)


def _load(params: Params, train: AnnotationSet, raw: Path) -> tuple[Loaded, float]:
    """A few steps, and the seconds that an image of them took; where an epoch has too few, they come again."""
    batches = make_batches(params, train, raw)
    started = time.perf_counter()
    steps = list(islice(batches(0), _STEPS))
    images = sum(len(part.names) for parts in steps for part in parts)
    took = (time.perf_counter() - started) / images
    return Loaded((steps * _STEPS)[:_STEPS], len(batches)), took


class Judging:
    """A validation that is timed."""

    def __init__(self, params: Params, split: AnnotationSet, raw: Path) -> None:
        self.validate = make_validation(params, split, raw)
        self.seconds = 0.0

    def __call__(self, detector: Detector) -> Row:
        started = time.perf_counter()
        row = self.validate(detector)
        self.seconds = time.perf_counter() - started
        return row


def _run(trainer: Trainer) -> tuple[float, float]:
    """A few steps, validations; and the seconds that a state takes to be saved, and to be taken up again."""
    trainer.epochs, trainer.validate_every, trainer.log_every = 1, 1, 1
    trainer.checkpoint_seconds, trainer.checkpoint_steps = math.inf, _STEPS + 1
    trainer.fit()
    trainer.validate(trainer.result)  # again: the first time chooses algorithms
    assert trainer.checkpoint
    started = time.perf_counter()
    trainer.save()
    trainer.checkpoint.wait()
    saved = time.perf_counter()
    trainer.resume()
    return saved - started, time.perf_counter() - saved


def _processes(machine: MachineParams, device: torch.device) -> int:
    """Those that share a step on GPUs. On a CPU they share its cores: one process does as much as all."""
    if device.type == "cpu":
        return 1
    return torch.cuda.device_count() if machine.devices == "auto" else machine.devices


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved()
    status = Path("/proc/self/status")  # Linux tells this process's own peak, without its parent's
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) << 10
    import resource

    # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def text(measured: Measured) -> str:
    """As a table."""
    one = measured
    processes = f", {one.processes} processes" if one.processes > 1 else ""
    workers = f"{one.workers} workers" if one.workers else "the training process itself"
    share = one.images / one.processes
    rows = [
        ("decoding and augmenting", f"{1 / one.decoding:,.1f} images/s by one core; done by {workers}"),
        ("training step", f"{share / one.step:,.1f} images/s ({one.step:,.3f} s for {share:g} images)"),
        ("validation", f"{1 / one.validating:,.1f} images/s, before anything is detected"),
        ("memory", f"{one.memory / 2**20:,.0f} MiB at its peak"),
        ("state", f"{one.state / 2**20:,.1f} MiB; {one.saving:.2f} s to save, {one.loading:.2f} s to take up again"),
        ("first loss", f"{one.loss:.3f}"),
        (
            "whole training",
            f"about {duration(one.whole)}: {one.epochs} epochs of {one.steps:,} steps, {one.validations} validations "
            f"of {one.judged:,} images",
        ),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{one.device}{processes}", *(f"{name.ljust(width)}  {value}" for name, value in rows)])


def duration(seconds: float) -> str:
    """A time in the two units that tell: 3 min 20 s, 2 h 5 min, 4 d 3 h."""
    whole = round(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"
