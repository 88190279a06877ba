"""Unified data in, a trained detector out: `python -m pipeline.stages.train`."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from fcos.training.checkpoints import Checkpoint
from fcos.training.engine import FailedElsewhere, History, NonFiniteLoss, NothingToLearn, Row
from fcos.training.processes import Processes
from fcos.weights import Description, save_detector
from pipeline import annotations, launching, stage, tracking
from pipeline.annotations import AnnotationSet
from pipeline.errors import PipelineError
from pipeline.files import digest, replacing, write_json
from pipeline.metrics.curves import loss_curves
from pipeline.params import Params, load
from pipeline.progress import Progress
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
    trainer = make_trainer(
        params,
        batches=make_batches(params, learnt_from, raw, processes),
        validate=make_validation(params, judged_on, raw, processes=processes),
        classes=len(learnt_from.categories),
        watcher=Silent(),
        checkpoint=None,
        processes=processes,
    )
    try:
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
    here = workspace()
    checkpoint = Checkpoint(state() / "training" / key)
    batches = make_batches(params, learnt_from, raw, processes)
    with tracking.train(params, key=key) as run, Watching(Progress(params.train.epochs * len(batches)), run) as watcher:
        trainer = make_trainer(
            params,
            batches=batches,
            validate=make_validation(params, judged_on, raw, processes=processes),
            classes=len(learnt_from.categories),
            watcher=watcher,
            checkpoint=checkpoint,
            processes=processes,
        )
        try:
            history = trainer.fit()
        except NonFiniteLoss as error:
            raise PipelineError(str(error)) from None
        watcher.flush()
        weights = here / "models/detector.safetensors"
        save_detector(trainer.result, describe(params, learnt_from), weights)
        write_curves(history, here / "plots")
        write_json(here / "metrics/train.json", summary(history, watcher.progress.images_per_second))
        run.artifacts(weights, weights.with_suffix(".json"), here / "plots/loss.csv", here / "plots/loss.png")
        run.finished(digest(weights))
    checkpoint.clear()


class Watching:
    """Passes what training tells on: to the bar at once, to MLflow in groups."""

    def __init__(self, progress: Progress, run: "tracking.Run") -> None:
        self.progress, self.run = progress, run
        self.waiting: list[Row] = []

    def __enter__(self) -> "Watching":
        self.progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
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


def write_curves(history: History, folder: Path) -> None:
    """loss.csv, a row a step; validation.csv, a row an epoch; loss.png."""
    _write_csv(history.steps, folder / "loss.csv")
    _write_csv(history.epochs, folder / "validation.csv")
    loss_curves(history.steps, folder / "loss.png")


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


def summary(history: History, images_per_second: float) -> dict[str, object]:
    """metrics/train.json: the last tenth's mean losses, the last validation, speed."""
    last = history.steps[-max(1, len(history.steps) // 10) :]
    names = ("total", "classification", "box", "quality", "quality_floor")
    return {
        "loss": {name: sum(row[name] for row in last) / len(last) for name in names},
        "val": {name: value for name, value in history.epochs[-1].items() if name not in ("epoch", "step")},
        "steps": len(history.steps),
        "images_per_second": round(images_per_second, 2),
    }


if __name__ == "__main__":
    main()
