"""Unified data in, a trained detector out: `python -m pipeline.stages.train`."""

import os
import sys

from pipeline import stage

if __name__ == "__main__" and len(sys.argv) == 1:
    stage.listen("train", leave=os._exit)  # before torch is imported: that takes seconds

import csv
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from filelock import FileLock

from fcos.detector import Detector
from fcos.training.checkpoints import Checkpoint, NotSaved
from fcos.training.engine import (
    Best,
    FailedElsewhere,
    History,
    Interrupted,
    NonFiniteLoss,
    NothingToLearn,
    Row,
    Trainer,
)
from fcos.training.processes import Processes
from fcos.weights import Description, save_detector
from pipeline import annotations, launching, states, tracking
from pipeline.annotations import AnnotationSet
from pipeline.errors import PipelineError
from pipeline.files import digest, remove, replacing, write_json
from pipeline.metrics.curves import loss_curves
from pipeline.params import Params, load
from pipeline.progress import Progress, say
from pipeline.training import make_batches, make_trainer, make_validation
from pipeline.workspace import state, workspace

_LOGGED_TOGETHER = 25  # steps: one call to MLflow for each would cost more than the call tells


def main() -> None:
    if len(sys.argv) > 1:  # one of several processes, started by `train`, for the training of this key
        stage.die_with_parent()
        launching.work(lambda: _help(sys.argv[1]))
    stage.run("train", train)


def train(params: Params) -> None:
    """Trains, then writes weights, curves and metrics, and tells MLflow; in several processes where there are to be."""
    key = stage.fingerprint("train")
    if launching.is_worker() or (count := launching.wanted(params.train)) == 1:
        _work(params, key)
    else:
        with _locked(f"{key}.launch"):
            launching.launch("pipeline.stages.train", key, count=count)


def _help(key: str) -> None:
    if stage.fingerprint("train") != key:  # it is what the state is kept under
        raise PipelineError("parameters, code or data changed while this stage ran: run `dvc repro train` again")
    with stage.full_disk_told():
        _work(load(), key)


def _locked(name: str) -> FileLock:
    """The same training may run in another workspace (two queued experiments that differ in evaluation alone): it
    shares the state, so one waits for the other."""
    folder = state() / "training"
    folder.mkdir(exist_ok=True)
    return FileLock(folder / f"{name}.lock")


def _work(params: Params, key: str) -> None:
    """What one process does: the first leads, the others only learn."""
    here = workspace()
    raw = here / "data/raw" / params.dataset
    learnt_from, judged_on = (annotations.read(here / f"data/unified/{name}.json") for name in ("train", "val"))
    with launching.processes(params.train) as processes:
        if processes.rank:
            _follow(params, learnt_from, judged_on, raw, processes)
        else:
            with _locked(key):
                _train(params, key, learnt_from, judged_on, raw, processes)


def _follow(
    params: Params, learnt_from: AnnotationSet, judged_on: AnnotationSet, raw: Path, processes: Processes
) -> None:
    request = stage.Request()
    trainer = make_trainer(
        params,
        batches=make_batches(params, learnt_from, raw, processes),
        validate=make_validation(params, judged_on, raw, request, processes),
        classes=len(learnt_from.categories),
        watcher=Silent(),
        checkpoint=None,
        processes=processes,
        interrupted=request,
    )
    try:
        with request.noted():
            trainer.fit()
    except (NonFiniteLoss, NothingToLearn):
        raise FailedElsewhere from None  # the first process says the same


class Silent:
    """Tells nobody."""

    def stepped(self, row: Row, images: int) -> None: ...
    def validated(self, row: Row) -> None: ...


def _train(
    params: Params,
    key: str,
    learnt_from: AnnotationSet,
    judged_on: AnnotationSet,
    raw: Path,
    processes: Processes,
) -> None:
    if freed := states.remove_forgotten(state() / "training", key):
        say(freed)
    checkpoint = Checkpoint(state() / "training" / key, tell=say)
    batches, request = make_batches(params, learnt_from, raw, processes), stage.Request()
    with tracking.train(params, key=key) as run, Watching(Progress(params.train.epochs * len(batches)), run) as watcher:
        trainer = make_trainer(
            params,
            batches=batches,
            validate=make_validation(params, judged_on, raw, request, processes),
            classes=len(learnt_from.categories),
            watcher=watcher,
            checkpoint=checkpoint,
            processes=processes,
            interrupted=request,
        )
        history, best = _fit(trainer, request, watcher)
        watcher.flush()
        if history.stopped_early:
            say(stopped_early(history, best, params.train.epochs))
        _write(params, trainer, history, best, describe(params, learnt_from), watcher.progress.images_per_second, run)
    checkpoint.clear()


def _fit(trainer: Trainer, request: stage.Request, watcher: "Watching") -> tuple[History, Best]:
    """Trains, or ends the stage: with a line, and a state that the next training goes on from."""
    try:
        with request.noted():
            history = trainer.fit()
    except Interrupted:
        _stop(trainer, request, watcher, "its state is saved")
    except (NonFiniteLoss, NothingToLearn, NotSaved) as error:
        raise PipelineError(str(error)) from None
    except RuntimeError:
        if not request() or trainer.processes.count > 1:  # of several, a launcher ends those that lost another
            raise
        # The signal went to all processes, and ended the loader's workers in the middle of a step.
        _stop(trainer, request, watcher, "the state before is kept")
    if request():  # in the last moment: if DVC is no more, nobody would take the result
        _stop(trainer, request, watcher, "its state is saved")
    assert trainer.best
    return history, trainer.best


def _stop(trainer: Trainer, request: stage.Request, watcher: "Watching", state: str) -> NoReturn:
    watcher.progress.close()
    at = f" at step {trainer.step} of {watcher.progress.steps}; {state}: `dvc repro` goes on from there"
    stage.stopped("train", request.number or signal.SIGTERM, at)


def _write(
    params: Params,
    trainer: Trainer,
    history: History,
    best: Best,
    description: Description,
    images_per_second: float,
    run: "tracking.Run",
) -> None:
    """Everything that comes out of a training."""
    here = workspace()
    weights = write_weights(trainer.result, best, description, here / "models", keep=params.train.keep)
    write_curves(history, here / "plots", stopped_early(history, best, params.train.epochs))
    write_json(here / "metrics/train.json", summary(history, best, images_per_second))
    files = [file for path in weights for file in (path, path.with_suffix(".json"))]
    run.artifacts(*files, here / "plots/loss.csv", here / "plots/loss.png")
    run.finished(digest(weights[0]))


def write_weights(
    last: Detector, best: Best, description: Description, folder: Path, *, keep: str
) -> tuple[Path, Path]:
    """Writes the detector, and beside it the other weights: best.safetensors or last.safetensors.

    Args:
        last: gets the best weights when its own are written.
        keep: which of the two become the detector: last | best.

    Returns:
        The detector's file, and the other one.
    """
    paths = {name: folder / f"{'detector' if name == keep else name}.safetensors" for name in ("last", "best")}
    for old in (folder / f"{keep}.safetensors", folder / f"{keep}.json"):  # of a training that kept the other
        remove(old)
    save_detector(last, description, paths["last"])
    last.load_state_dict(best.weights)
    save_detector(last, description, paths["best"])
    other = "last" if keep == "best" else "best"
    return paths[keep], paths[other]


def stopped_early(history: History, best: Best, epochs: int) -> str:
    """A line that says so; empty where all epochs were trained."""
    if not history.stopped_early:
        return ""
    score = f"AP {best.row['AP']:.3f}" if "AP" in best.row else "the best"
    last = history.epochs[-1]["epoch"]
    return f"stopped early, after epoch {last:g} of {epochs}: {score} of epoch {best.row['epoch']:g} was not bettered"


class Watching:
    """Passes what training tells on: to the bar at once, to MLflow in groups."""

    def __init__(self, progress: Progress, run: "tracking.Run") -> None:
        self.progress, self.run = progress, run
        self.waiting: list[Row] = []

    def __enter__(self) -> "Watching":
        self.progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()  # MLflow gets all steps, also of a training that stops here
        self.progress.__exit__(None, None, None)

    def stepped(self, row: Row, images: int) -> None:
        self.progress.stepped(row, images)
        self.waiting.append({"step": row["step"]} | {f"train/{k}": v for k, v in row.items() if k != "step"})
        if len(self.waiting) >= _LOGGED_TOGETHER:
            self.flush()

    def validated(self, row: Row) -> None:
        self.progress.validated(row)
        self.flush()
        values = {f"val/{name}": value for name, value in row.items() if name not in ("epoch", "step")}
        self.run.metrics(values | {"epoch": row["epoch"]}, step=int(row["step"]))

    def flush(self) -> None:
        """Logs what hasn't been logged yet."""
        if self.waiting:
            self.run.steps(self.waiting)
            self.waiting = []


def describe(params: Params, split: AnnotationSet) -> Description:
    """What has to be known to use the weights."""
    categories = tuple((category.id, category.name) for category in split.categories)
    return Description(model=params.model, categories=categories, input_size=params.train.input_size)


def write_curves(history: History, folder: Path, title: str = "") -> None:
    """loss.csv, a row a step; validation.csv, a row an epoch; loss.png."""
    _write_csv(history.steps, folder / "loss.csv")
    _write_csv(history.epochs, folder / "validation.csv")
    loss_curves(history.steps, folder / "loss.png", title)


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


def summary(history: History, best: Best, images_per_second: float) -> dict[str, object]:
    """metrics/train.json: the last tenth's mean losses, the last and the best validation, length, speed."""
    last = history.steps[-max(1, len(history.steps) // 10) :]
    names = ("total", "classification", "box", "quality", "quality_floor")
    return {
        "loss": {name: sum(row[name] for row in last) / len(last) for name in names},
        "val": {name: value for name, value in history.epochs[-1].items() if name not in ("epoch", "step")},
        "best": {"epoch": int(best.row["epoch"])} | {k: v for k, v in best.row.items() if k not in ("epoch", "step")},
        "steps": len(history.steps),
        "epochs": int(history.epochs[-1]["epoch"]),
        "stopped_early": history.stopped_early,
        "images_per_second": round(images_per_second, 2),
    }


if __name__ == "__main__":
    main()
