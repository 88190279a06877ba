"""Which options of a small detector gain accuracy at equal CPU time? One training of each on two small data sets.

    OMP_NUM_THREADS=1 nice -n 15 python -m benchmarks.screening run --bccd bccd.zip     # variants not yet in the file
    OMP_NUM_THREADS=1 nice -n 15 python -m benchmarks.screening run --bccd bccd.zip aligned "aligned, depthwise towers"
    python -m benchmarks.screening table                                               # prints it, and writes a card

The reference trains for a fixed number of steps. The CPU seconds of a variant's step are measured in turn with the
reference's, and the variant trains for as many steps as take the same CPU time: an option that costs nothing must
gain, and one that makes a step cheaper is paid for it in steps.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.harness import context, save_card, today
from benchmarks.start_from import make_project
from fcos.training.history import NullCallback, Row
from fcos.training.trainer import Trainer
from pipeline.analysis.check import read_splits
from pipeline.data.annotations import AnnotationSet
from pipeline.inference.network_costs import meta_detector, network_costs
from pipeline.overrides import override
from pipeline.params import Params, load
from pipeline.training.build import make_batches, make_trainer, make_validation
from pipeline.training.overfit import RepeatedBatches

_TIMED_STEPS = 4
_ROUNDS = 2  # of timed steps of the reference and of the variant, in turn


@dataclass(frozen=True)
class Data:
    """A small data set: what differs from params.yaml, and the steps that the reference trains for."""

    changes: Mapping[str, Any]
    steps: int


def _data_sets(bccd: Path) -> dict[str, Data]:
    digits = {
        "download.digits.train": 400,
        "download.digits.val": 100,
        "download.digits.size": 192,
        "train.size": [192, 192],
    }
    cells = {
        "dataset": "custom",
        "download.path": str(bccd.resolve()),
        "convert.train": "trainval",
        "convert.val": "test",
        "convert.issues": "repair",
        "model.backbone": "efficientnet_lite0",
        "model.pretrained": True,
        "model.channels": 96,
        "train.size": [120, 160],
        "train.lr": 0.001,
        "train.augment.flip": 0.5,
    }
    return {"digits": Data(digits, steps=150), "bccd": Data(cells, steps=120)}


# Task-aligned assignment with what belongs to it.
_ALIGNED = (
    "loss=giou",
    "model.assigner=task_aligned",
    "model.classification_loss=quality_focal",
    "model.box_loss_weighting=none",
    "model.quality=none",
)
REFERENCE = "default"
VARIANTS: dict[str, tuple[str, ...]] = {
    REFERENCE: (),
    "aligned": _ALIGNED,
    "aligned, depthwise towers": (*_ALIGNED, "model.tower_convolution=depthwise"),
    "aligned, distribution focal loss": (*_ALIGNED, "model.box_output=distribution"),
    "aligned, distribution focal loss, depthwise towers": (
        *_ALIGNED,
        "model.box_output=distribution",
        "model.tower_convolution=depthwise",
    ),
    "aligned, stem and C2 frozen": (*_ALIGNED, "model.frozen_stages=2"),
}


@dataclass(frozen=True)
class Result:
    """A training of a variant."""

    variant: str
    data: str
    seed: int
    gigaflops: float  # of the forward pass of one image
    cost: float  # CPU seconds of a step, divided by the reference's
    steps: int
    cpu_seconds: float  # of the training
    ap: float
    ap50: float


class _CpuClock(NullCallback):
    """Records the CPU time of this process after each step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, row: Row, images: int) -> None:  # noqa: ARG002
        self.times.append(time.process_time())


@dataclass(frozen=True)
class Screening:
    """The trainings on one data set, in a folder with converted data."""

    folder: Path
    params: Params
    train: AnnotationSet
    val: AnnotationSet

    def variant(self, name: str, seed: int) -> Params:
        return override(self.params, [*VARIANTS[name], f"seed={seed}"])

    def trainer(self, params: Params, steps: int, clock: _CpuClock, *, validate: bool) -> Trainer:
        """A training of a number of steps, as one epoch."""
        params = replace(params, train=replace(params.train, epochs=1))
        raw = self.folder / "data/raw" / params.dataset
        return make_trainer(
            params,
            batches=RepeatedBatches(make_batches(params, self.train, raw), steps),  # type: ignore[arg-type]
            validate=make_validation(params, self.val, raw) if validate else lambda _: {},
            classes=[category.name for category in self.train.categories],
            callback=clock,
            checkpoint=None,
        )

    def cost(self, params: Params, reference: Params) -> float:
        """The median CPU time of a step divided by the reference's, both measured in turn."""
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(_ROUNDS):
            for is_variant, side in ((True, params), (False, reference)):
                clock = _CpuClock()
                self.trainer(side, _TIMED_STEPS + 1, clock, validate=False).fit()
                times = clock.times[1:]  # the first step allocates memory
                seconds[is_variant] += [after - before for before, after in pairwise(times)]
        return statistics.median(seconds[True]) / statistics.median(seconds[False])

    def measure(self, name: str, data: str, steps: int, seed: int) -> Result:
        params, reference = self.variant(name, seed), self.variant(REFERENCE, seed)
        cost = 1.0 if name == REFERENCE else self.cost(params, reference)
        clock = _CpuClock()
        trainer = self.trainer(params, round(steps / cost), clock, validate=True)
        start = time.process_time()
        row = trainer.fit().epochs[-1]
        costs = network_costs(meta_detector(params.model, len(self.train.categories)), params.train.size)
        return Result(
            name, data, seed, costs.flops / 1e9, cost, trainer.step, clock.times[-1] - start, row["AP"], row["AP50"]
        )


def read_results(path: Path) -> list[Result]:
    return [Result(**json.loads(line)) for line in path.read_text().splitlines()] if path.is_file() else []


def screen(names: list[str], options: argparse.Namespace) -> None:
    """Measures the variants that the file of results doesn't have yet."""
    done = {(result.variant, result.data, result.seed) for result in read_results(options.results)}
    for data_name, data in _data_sets(options.bccd).items():
        todo = [name for name in names if (name, data_name, options.seed) not in done]
        if data_name not in options.data or not todo:
            continue
        screening = prepare(options.folder / data_name, data)
        for name in todo:
            result = screening.measure(name, data_name, data.steps, options.seed)
            with options.results.open("a") as file:
                file.write(json.dumps(asdict(result)) + "\n")
            print(_row(result), flush=True)


def prepare(folder: Path, data: Data) -> Screening:
    """Downloads and converts a data set into a folder, unless it is there."""
    if not (folder / "data/unified/val.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_project(folder, dict(data.changes))
    return Screening(folder, load(folder / "params.yaml"), *read_splits(folder))


def table(results: list[Result]) -> str:
    """A Markdown table: a row for each variant and data set, with the difference from the reference of its seed."""
    base = {(result.data, result.seed): result for result in results if result.variant == REFERENCE}
    rows = [
        "| data | variant | seed | GFLOPs | CPU time of a step | steps | AP | AP50 | AP against default |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for result in sorted(results, key=lambda result: (result.data, result.seed, -result.ap)):
        reference = base.get((result.data, result.seed))
        # Rounded first, and 0.0 added, so that a small loss is not "-0.0".
        gain = f"{round(100 * (result.ap - reference.ap), 1) + 0.0:+.1f}" if reference else ""
        rows.append(f"{_row(result)} {gain} |")
    return "\n".join(rows)


def _row(result: Result) -> str:
    cells = (
        *(result.data, result.variant, result.seed, f"{result.gigaflops:.2f}", f"{result.cost:.2f}", result.steps),
        *(f"{100 * result.ap:.1f}", f"{100 * result.ap50:.1f}"),
    )
    return f"| {' | '.join(map(str, cells))} |"


def _write_card(results: list[Result], folder: Path) -> Path:
    text = f"""# Screening of options for small detectors, {today()}

{context()}

    OMP_NUM_THREADS=1 nice -n 15 python -m benchmarks.screening run --bccd bccd.zip

{table(results)}
"""
    return save_card(text, "screening", folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.screening", description=__doc__)
    parser.add_argument("action", choices=("run", "table"))
    parser.add_argument("variants", nargs="*", help=f"default: all; {', '.join(VARIANTS)}")
    parser.add_argument("--bccd", type=Path, default=Path("bccd.zip"), help="BCCD's published archive")
    parser.add_argument("--data", nargs="*", default=["digits", "bccd"])
    parser.add_argument("--folder", type=Path, default=Path(".screening"), help="where converted data is kept")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path("screening.jsonl"))
    options = parser.parse_args()
    if options.action == "run":
        screen(options.variants or list(VARIANTS), options)
    else:
        results = read_results(options.results)
        if not results:
            sys.exit(f"{options.results}: no results; run the screening first")
        print(table(results))
        print(_write_card(results, Path(__file__).parent / "results"))


if __name__ == "__main__":
    main()
