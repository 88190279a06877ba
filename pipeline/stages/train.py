"""Unified data in, a trained detector out: `python -m pipeline.stages.train`."""

import csv
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock

from fcos.training.checkpoints import Checkpoint
from fcos.training.engine import History, Row
from fcos.weights import Description, save_detector
from pipeline import annotations, stage, tracking
from pipeline.advice import advice
from pipeline.annotations import AnnotationSet
from pipeline.files import digest, replacing, write_json
from pipeline.metrics.curves import loss_curves, optimiser_curves
from pipeline.params import Params
from pipeline.progress import Progress
from pipeline.training import by_heart, check_by_heart, make_batches, make_trainer, make_validation, one_line
from pipeline.workspace import state, workspace

_LOGGED_TOGETHER = 25  # steps: one call to MLflow for each would cost more than the call tells
_PLOTS = ("loss.csv", "loss.png", "optimiser.png")
_UNTOLD = ("annotated",)  # of a step: for the guards alone


def main() -> None:
    stage.run("train", train)


def train(params: Params) -> None:
    """Trains, then writes weights, curves and metrics, and tells MLflow."""
    here = workspace()
    raw = here / "data/raw" / params.dataset
    learnt_from, judged_on = (annotations.read(here / f"data/unified/{name}.json") for name in ("train", "val"))
    key = stage.fingerprint("train")
    (state() / "training").mkdir(exist_ok=True)
    # The same training may run in another workspace (two queued experiments that differ in evaluation alone): it
    # shares the state, so one waits for the other.
    with FileLock(state() / "training" / f"{key}.lock"):
        _train(params, key, learnt_from, judged_on, raw)


def _train(params: Params, key: str, learnt_from: AnnotationSet, judged_on: AnnotationSet, raw: Path) -> None:
    here = workspace()
    checkpoint = Checkpoint(state() / "training" / key)
    chosen = params  # MLflow is told what params.yaml says
    if params.train.overfit:
        chosen, learnt_from = by_heart(params, learnt_from)
        judged_on = learnt_from
    batches = make_batches(chosen, learnt_from, raw)
    for line in [] if params.train.overfit else advice(params, learnt_from, judged_on, steps=len(batches)):
        print(f"train: {line}", file=sys.stderr)  # noqa: T201
    with tracking.train(params, key=key) as run, Watching(Progress(chosen.train.epochs * len(batches)), run) as watcher:
        trainer = make_trainer(
            chosen,
            batches=batches,
            validate=make_validation(chosen, judged_on, raw),
            classes=len(learnt_from.categories),
            watcher=watcher,
            checkpoint=checkpoint,
        )
        with one_line():
            history = trainer.fit()
        watcher.flush()
        if params.train.overfit:
            check_by_heart(history, learnt_from)
        weights = here / "models/detector.safetensors"
        save_detector(trainer.result, describe(params, learnt_from), weights)
        write_curves(history, here / "plots")
        told = summary(history, watcher.progress.images_per_second)
        write_json(
            here / "metrics/train.json", told | ({"overfit": params.train.overfit} if chosen is not params else {})
        )
        run.artifacts(weights, weights.with_suffix(".json"), *(here / "plots" / name for name in _PLOTS))
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
        # MLflow's store knows no infinite number, which is the gradient's norm of a step that fp16 leaves out.
        told = {k: v for k, v in row.items() if k not in ("step", *_UNTOLD) and math.isfinite(v)}
        self.waiting.append({"step": row["step"]} | {f"train/{name}": value for name, value in told.items()})
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
    """loss.csv, a row a step; validation.csv, a row an epoch; loss.png; optimiser.png."""
    told = [{name: value for name, value in row.items() if name not in _UNTOLD} for row in history.steps]
    _write_csv(told, folder / "loss.csv")
    _write_csv(history.epochs, folder / "validation.csv")
    loss_curves(history.steps, folder / "loss.png")
    optimiser_curves(history.steps, folder / "optimiser.png")


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
