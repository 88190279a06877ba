"""Unified data in, a trained detector out: `python -m pipeline.stages.train`."""

import os
import sys

from pipeline import process, runner

if __name__ == "__main__" and len(sys.argv) == 1:
    process.handle_signals("train", leave=os._exit)  # before torch is imported: that takes seconds

import math
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from filelock import FileLock

from fcos.training.checkpoints import Checkpoint
from fcos.training.distributed import Processes
from fcos.training.guards import NonFiniteLoss, NothingToLearn
from fcos.training.history import UNREPORTED, Best, History, Row, Watcher
from fcos.training.trainer import FailedElsewhere, Interrupted, Trainer
from pipeline.analysis.advice import advice
from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError
from pipeline.files import digest, write_json
from pipeline.integrations import mlflow
from pipeline.params import Params, load
from pipeline.training import launch as launching
from pipeline.training import prune as states
from pipeline.training.artifacts import describe, early_stopping_message, training_summary, write_weights
from pipeline.training.build import EpochBatches, make_batches, make_trainer, make_validation, one_line_errors
from pipeline.training.overfit import check_overfit, overfit_subset
from pipeline.visualization.curves import write_training_curves
from pipeline.visualization.progress import Progress, write_line
from pipeline.workspace import state_dir, workspace

_LOGGED_TOGETHER = 25  # steps: one call to MLflow for each would cost more than the call tells
_PLOTS = ("loss.csv", "loss.png", "optimizer.png")


def main() -> None:
    if len(sys.argv) > 1:  # one of several processes, started by `train`, for the training of this key
        process.die_with_parent()
        launching.run_worker(lambda: _help(sys.argv[1]))
    runner.run_stage("train", run)


def run(params: Params) -> None:
    """Trains, then writes weights, curves and metrics, and tells MLflow; in several processes where there are to be."""
    key = runner.fingerprint("train")
    if launching.is_worker() or (count := launching.num_processes(params)) == 1:
        _work(params, key)
    else:
        with _locked(f"{key}.launch"):
            launching.launch("pipeline.stages.train", key, count=count)


def _help(key: str) -> None:
    if runner.fingerprint("train") != key:  # it is what the state is kept under
        raise PipelineError("parameters, code or data changed while this stage ran: run `dvc repro train` again")
    with runner.full_disk_errors():
        _work(load(), key)


def _locked(name: str) -> FileLock:
    """The same training may run in another workspace (two queued experiments that differ in evaluation alone): it
    shares the state, so one waits for the other."""
    folder = state_dir() / "training"
    folder.mkdir(exist_ok=True)
    return FileLock(folder / f"{name}.lock")


@dataclass(frozen=True)
class Work:
    """One training, as every process of it sees it."""

    params: Params
    train_split: AnnotationSet
    val_split: AnnotationSet
    raw: Path
    processes: Processes
    request: process.StopRequest = field(default_factory=process.StopRequest)

    def batches(self) -> EpochBatches:
        return make_batches(self.params, self.train_split, self.raw, self.processes)

    def trainer(self, batches: EpochBatches, watcher: Watcher, checkpoint: Checkpoint | None) -> Trainer:
        """The trainer, which no other process waits for yet."""
        return make_trainer(
            self.params,
            batches=batches,
            validate=make_validation(self.params, self.val_split, self.raw, self.request, self.processes),
            classes=len(self.train_split.categories),
            watcher=watcher,
            checkpoint=checkpoint,
            processes=self.processes,
            interrupted=self.request,
        )


def _work(params: Params, key: str) -> None:
    """What one process does: the first leads, the others only learn."""
    here = workspace()
    train_split, val_split = (annotations.read(here / f"data/unified/{name}.json") for name in ("train", "val"))
    with launching.join_processes(params) as processes:
        chosen = params
        if params.train.overfit:
            chosen, train_split = overfit_subset(params, train_split, processes.count)
            val_split = train_split
        work = Work(chosen, train_split, val_split, here / "data/raw" / params.dataset, processes)
        if processes.rank:
            _follow(work)
        else:
            with _locked(key):
                _lead(work, params, key)


def _follow(work: Work) -> None:
    trainer = work.trainer(work.batches(), Silent(), checkpoint=None)
    try:
        with work.request.deferred():
            trainer.fit()
    except (NonFiniteLoss, NothingToLearn):
        raise FailedElsewhere from None  # the first process says the same


class Silent:
    """Tells nobody."""

    def stepped(self, row: Row, images: int) -> None: ...
    def validated(self, row: Row) -> None: ...


def _lead(work: Work, told: Params, key: str) -> None:
    """Trains, tells and writes.

    Args:
        told: the parameters as params.yaml has them, which MLflow is told.
    """
    if freed := states.remove_stale_states(state_dir() / "training", key):
        write_line(freed)
    checkpoint, batches, params = (
        Checkpoint(state_dir() / "training" / key, tell=write_line),
        work.batches(),
        work.params,
    )
    for line in [] if params.train.overfit else advice(params, work.train_split, work.val_split, steps=len(batches)):
        write_line(line)
    with (
        mlflow.train_run(told, key=key) as mlflow_run,
        Watching(Progress(params.train.epochs * len(batches)), mlflow_run) as watcher,
    ):
        trainer = work.trainer(batches, watcher, checkpoint)
        history, best = _fit(trainer, work.request, watcher)
        watcher.flush()
        if history.stopped_early and not params.train.overfit:
            write_line(early_stopping_message(history, best, params.train.epochs))
        if params.train.overfit:
            check_overfit(history, work.train_split)
        _write(trainer, history, best, work, watcher.progress.images_per_second, mlflow_run)
    checkpoint.clear()


def _fit(trainer: Trainer, request: process.StopRequest, watcher: "Watching") -> tuple[History, Best]:
    """Trains, or ends the stage: with a line, and a state that the next training goes on from."""
    try:
        with request.deferred(), one_line_errors():
            history = trainer.fit()
    except Interrupted:
        _stop(trainer, request, watcher, "its state is saved")
    except RuntimeError:
        if not request() or trainer.processes.count > 1:  # of several, a launcher ends those that lost another
            raise
        # The signal went to all processes, and ended the loader's workers in the middle of a step.
        _stop(trainer, request, watcher, "the state before is kept")
    if request():  # in the last moment: if DVC is no more, nobody would take the result
        _stop(trainer, request, watcher, "its state is saved")
    assert trainer.best
    return history, trainer.best


def _stop(trainer: Trainer, request: process.StopRequest, watcher: "Watching", state: str) -> NoReturn:
    watcher.progress.close()
    at = f" at step {trainer.step} of {watcher.progress.steps}; {state}: `dvc repro` goes on from there"
    process.exit_stopped("train", request.number or signal.SIGTERM, at)


def _write(
    trainer: Trainer, history: History, best: Best, work: Work, images_per_second: float, mlflow_run: mlflow.Run
) -> None:
    here, train = workspace(), work.params.train
    weights = write_weights(
        trainer.result, best, describe(work.params, work.train_split), here / "models", keep=train.final_weights
    )
    write_training_curves(history, here / "plots", early_stopping_message(history, best, train.epochs))
    write_json(
        here / "metrics/train.json",
        training_summary(history, best, overfit=train.overfit, images_per_second=images_per_second),
    )
    files = [file for path in weights for file in (path, path.with_suffix(".json"))]
    mlflow_run.log_artifacts(*files, *(here / "plots" / name for name in _PLOTS))
    mlflow_run.mark_finished(digest(weights[0]))


class Watching:
    """Passes what training tells on: to the bar at once, to MLflow in groups."""

    def __init__(self, progress: Progress, mlflow_run: mlflow.Run) -> None:
        self.progress, self.mlflow_run = progress, mlflow_run
        self.waiting: list[Row] = []

    def __enter__(self) -> "Watching":
        self.progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()  # MLflow gets all steps, also of a training that stops here
        self.progress.__exit__(None, None, None)

    def stepped(self, row: Row, images: int) -> None:
        self.progress.stepped(row, images)
        told = {k: v for k, v in row.items() if k not in ("step", *UNREPORTED) and math.isfinite(v)}
        self.waiting.append({"step": row["step"]} | {f"train/{k}": v for k, v in told.items()})
        if len(self.waiting) >= _LOGGED_TOGETHER:
            self.flush()

    def validated(self, row: Row) -> None:
        self.progress.validated(row)
        self.flush()
        values = {f"val/{name}": value for name, value in row.items() if name not in ("epoch", "step")}
        self.mlflow_run.log_metrics(values | {"epoch": row["epoch"]}, step=int(row["step"]))

    def flush(self) -> None:
        """Logs what hasn't been logged yet."""
        if self.waiting:
            self.mlflow_run.log_steps(self.waiting)
            self.waiting = []


if __name__ == "__main__":
    main()
