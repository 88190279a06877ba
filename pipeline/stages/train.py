"""The train stage: data/unified and data/raw/<dataset> → models/, metrics/train.json and training plots."""

import os
import sys

from pipeline import process, runner

if __name__ == "__main__":  # before the imports below, which take seconds
    process.limit_spinning()
    process.postpone_collection()
    process.handle_signals("train" if len(sys.argv) == 1 else "", leave=os._exit)

import math
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn, Self

from fcos.training.checkpoints import Checkpoint
from fcos.training.distributed import Processes
from fcos.training.guards import NonFiniteLossError, NothingToLearnError
from fcos.training.history import UNREPORTED, Best, Callback, History, NullCallback, Row
from fcos.training.trainer import PeerFailedError, Trainer, TrainingInterrupted
from pipeline.analysis.advice import advice
from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.files import digest, remove, write_json
from pipeline.integrations import mlflow
from pipeline.integrations.mlflow_images import ValidationImages
from pipeline.params import Params, load
from pipeline.training import launch, state_folders
from pipeline.training.artifacts import describe, early_stopping_message, training_summary, write_weights
from pipeline.training.build import (
    EpochBatches,
    make_batches,
    make_trainer,
    make_validation,
    one_line_errors,
    resolve_precision,
)
from pipeline.training.extension import STATE_FILE, Extension, keep_state, read_extension
from pipeline.training.initial_weights import EXTEND_FROM, find_start
from pipeline.training.overfit import check_overfit, overfit_subset
from pipeline.visualization.curves import write_training_curves
from pipeline.visualization.progress import Progress, write_line
from pipeline.workspace import state_dir, workspace

_STEPS_PER_LOG = 25  # steps that are logged to MLflow in one call
_LOGGED_PLOTS = ("loss.csv", "loss.png", "optimizer.png")


def run(params: Params) -> Callable[[], None]:
    """Trains, writes weights, curves and metrics, and logs them to MLflow; launches several processes if needed.

    Returns:
        A function that removes the training's state. Until it is called, the stage can be repeated in seconds.
    """
    find_start(params)  # an error before MLflow has a run
    state = _state(_fingerprint(params))
    if launch.is_worker() or (count := launch.num_processes(params)) == 1:
        _train(params, state)
    else:
        with state_folders.launch_lock(state):
            launch.launch("pipeline.stages.train", state.name, count=count)
    return partial(state_folders.remove_finished_state, state)


def _run_worker(key: str) -> None:
    """Trains in one of several processes that `run` launched."""
    params = load()
    if _fingerprint(params) != key:  # the state's key
        raise PipelineError("parameters, code or data changed while this stage ran: run `dvc repro train` again")
    with runner.disk_errors():
        _train(params, _state(key))


def _fingerprint(params: Params) -> str:
    return runner.fingerprint("train", precision=resolve_precision(params).name)


def _state(key: str) -> Path:
    """The folder of a training's state. Queued experiments with the same training share it, one after the other."""
    return state_dir() / "training" / key


@dataclass(frozen=True)
class Job:
    """What every process of a training needs."""

    params: Params
    train_split: AnnotationSet
    val_split: AnnotationSet
    images: Path
    processes: Processes
    extension: Extension | None = None
    stop_request: process.StopRequest = field(default_factory=process.StopRequest)

    @property
    def first_epoch(self) -> int:
        """Number of epochs of the training that this one extends."""
        return self.extension.epochs if self.extension else 0

    @property
    def epochs(self) -> int:
        """Number of all epochs, those of the training that this one extends included."""
        return self.first_epoch + self.params.train.epochs

    def make_batches(self) -> EpochBatches:
        return make_batches(self.params, self.train_split, self.images, self.processes, self.first_epoch)

    def make_trainer(
        self,
        batches: EpochBatches,
        callback: Callback,
        checkpoint: Checkpoint | None,
        on_detections: Callable[[Sequence[Detection]], None] = lambda _: None,
    ) -> Trainer:
        trainer = make_trainer(
            self.params,
            batches=batches,
            validate=make_validation(
                self.params, self.val_split, self.images, self.stop_request, self.processes, on_detections
            ),
            classes=[category.name for category in self.train_split.categories],
            callback=callback,
            checkpoint=checkpoint,
            processes=self.processes,
            interrupted=self.stop_request,
        )
        if self.extension:
            self.extension.apply(trainer)
        return trainer


def _train(params: Params, state: Path) -> None:
    """Trains in this process. The process of rank 0 also saves states, reports progress and writes the results."""
    unified = workspace() / "data/unified"
    train_split, val_split = annotations.read(unified / "train.json"), annotations.read(unified / "val.json")
    with launch.join_processes(params) as processes:
        job_params = params
        if params.train.overfit:
            job_params, train_split = overfit_subset(params, train_split, processes.world_size)
            val_split = train_split
        warn = write_line if processes.rank == 0 else lambda _: None
        images, extension = workspace() / "data/raw" / params.dataset, read_extension(params, warn)
        job = Job(job_params, train_split, val_split, images, processes, extension)
        if processes.rank:
            _follow(job)
        else:
            with state_folders.state_lock(state):
                _lead(job, params, state)


def _follow(job: Job) -> None:
    """Trains in a process of rank 1 or higher."""
    trainer = job.make_trainer(job.make_batches(), NullCallback(), checkpoint=None)
    try:
        with job.stop_request.deferred():
            trainer.fit()
    except (NonFiniteLossError, NothingToLearnError):
        raise PeerFailedError from None  # rank 0 reports the error


def _lead(job: Job, logged_params: Params, state: Path) -> None:
    """Trains in the process of rank 0.

    Args:
        logged_params: the parameters as params.yaml has them, for MLflow.
    """
    if message := state_folders.remove_stale_states(state.parent, state.name):
        write_line(message)
    checkpoint, batches, train = Checkpoint(state, warn=write_line), job.make_batches(), job.params.train
    if not train.overfit:
        for line in advice(job.params, job.train_split, job.val_split, steps=len(batches)):
            write_line(line)
    images = ValidationImages(job.val_split, job.images)
    with (
        mlflow.train_run(
            logged_params,
            key=state.name,
            precision=resolve_precision(job.params).name,
            resumed=checkpoint.newest.is_file(),
            origin=_origin(logged_params),
        ) as mlflow_run,
        LoggingCallback(Progress(job.epochs * len(batches)), mlflow_run, images) as callback,
    ):
        mlflow_run.log_datasets(training=job.train_split, validation=job.val_split)
        trainer = job.make_trainer(batches, callback, checkpoint, images.keep)
        history, best = _fit(trainer, job.stop_request, callback)
        callback.flush()
        if train.overfit:
            check_overfit(history, job.train_split)
        elif history.stopped_early:
            write_line(early_stopping_message(history, best, job.epochs))
        _write_results(trainer, history, best, job, callback)


def _origin(params: Params) -> mlflow.Origin | None:
    """How MLflow names the run that made the weights to start from."""
    file, key = find_start(params)
    if not file:
        return None
    tag, text = ("extended_from", "Trains longer") if key == EXTEND_FROM else ("started_from", "Started from")
    return mlflow.Origin(tag, text, digest(file))


def _fit(trainer: Trainer, stop_request: process.StopRequest, callback: "LoggingCallback") -> tuple[History, Best]:
    """Trains to the end, or exits with a line after a signal; `dvc repro` then resumes from the saved state."""
    try:
        with stop_request.deferred(), one_line_errors():
            history = trainer.fit()
    except TrainingInterrupted:
        _exit_stopped(trainer, stop_request, callback, "its state is saved")
    except RuntimeError:
        # With several processes, the launcher ends the others when one is lost.
        if not stop_request() or trainer.processes.world_size > 1:
            raise
        # The signal also ended the loader's workers, in the middle of a step.
        _exit_stopped(trainer, stop_request, callback, "the previous state is kept")
    if stop_request():  # after the last step; if DVC was killed, it can't store the result
        _exit_stopped(trainer, stop_request, callback, "its state is saved")
    assert trainer.best
    return history, trainer.best


def _exit_stopped(
    trainer: Trainer, stop_request: process.StopRequest, callback: "LoggingCallback", state: str
) -> NoReturn:
    callback.progress.close()
    details = f" at step {trainer.step} of {callback.progress.steps}; {state}: `dvc repro` resumes from it"
    process.exit_stopped("train", stop_request.number or signal.SIGTERM, details)


def _write_results(trainer: Trainer, history: History, best: Best, job: Job, callback: "LoggingCallback") -> None:
    project, train, mlflow_run = workspace(), job.params.train, callback.mlflow_run
    description = describe(job.params, job.train_split, trainer.precision.name)
    if train.keep_state:
        keep_state(trainer, job.params, project / "models")  # before `write_weights` changes the weights
    else:
        remove(project / "models" / STATE_FILE)
    weights = write_weights(trainer.result, best, description, project / "models", keep=train.final_weights)
    write_training_curves(history, project / "plots", early_stopping_message(history, best, job.epochs))
    speed = callback.progress.images_per_second
    summary = training_summary(history, best, overfit=train.overfit, images_per_second=speed)
    write_json(project / "metrics/train.json", summary)
    rows = {"last": history.epochs[-1], "best": best.row}
    names = ("last", "best") if train.final_weights == "last" else ("best", "last")
    mlflow_run.log_checkpoints(dict(zip(names, weights, strict=True)), rows, callback.images.example())
    mlflow_run.log_artifacts(*(project / "plots" / name for name in _LOGGED_PLOTS))
    mlflow_run.mark_finished(digest(weights[0]))


class LoggingCallback:
    """Shows steps and validations in the progress bar at once, and logs them to MLflow in groups."""

    def __init__(self, progress: Progress, mlflow_run: mlflow.Run, images: ValidationImages) -> None:
        self.progress, self.mlflow_run, self.images = progress, mlflow_run, images
        self._pending: list[Row] = []

    def __enter__(self) -> Self:
        self.progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()  # MLflow gets every step, also if the training stops here
        self.progress.__exit__(None, None, None)

    def on_step(self, row: Row, images: int) -> None:
        self.progress.on_step(row, images)
        values = {f"train/{k}": v for k, v in row.items() if k not in ("step", *UNREPORTED) and math.isfinite(v)}
        self._pending.append({"step": row["step"], **values})
        if len(self._pending) >= _STEPS_PER_LOG:
            self.flush()

    def on_validation(self, row: Row) -> None:
        self.progress.on_validation(row)
        self.flush()
        values = {f"val/{name}": value for name, value in row.items() if name not in ("epoch", "step")}
        self.mlflow_run.log_metrics({**values, "epoch": row["epoch"]}, step=int(row["step"]))
        self.mlflow_run.log_predictions(self.images.draw(), epoch=int(row["epoch"]))

    def flush(self) -> None:
        """Logs the pending steps to MLflow."""
        if self._pending:
            self.mlflow_run.log_steps(self._pending)
            self._pending = []


if __name__ == "__main__":
    if len(sys.argv) > 1:  # a process that `run` launched for the training with this key
        launch.run_worker(partial(_run_worker, sys.argv[1]))
    with process.quick_exit():
        runner.run_stage("train", run)
