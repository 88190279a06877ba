"""A race: our recipe and torchvision's FCOS learn the same data for the same time, on a core each.

    python -m benchmarks.race run bccd --archive bccd.zip --seconds 600 --seeds 0 1 2
    python -m benchmarks.race run voc2007 --archive voc2007.tar --seconds 2700 --seeds 0
    python -m benchmarks.race table      # prints the results, and writes a card

The other side is what a good engineer would write in an afternoon: torchvision's `FCOS` around the same backbone with
the same ImageNet weights, channels, levels and towers; AdamW, one cycle, random flips, a moving average of the weights,
frozen batch norm, gradient clipping, bf16 where its step is faster so, and the best of three learning rates, chosen
with the first seed and a third of the time, or `--trial-seconds`. Time is CPU time of a process with one thread, with
loading and without validation, so that other work on the machine harms neither side. Both are scored by pycocotools.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.race import ours, results
from benchmarks.race.scoring import Race, Result
from benchmarks.race.torchvision_fcos import Loop
from benchmarks.start_from import make_project
from pipeline import recipes
from pipeline.analysis.check import read_splits
from pipeline.errors import PipelineError
from pipeline.overrides import override

_LEARNING_RATES = (0.0005, 0.001, 0.002)  # of the other side; it keeps the best
_TRIAL = 3  # a learning rate is tried for the time divided by this
_TRIAL_SCORES = ("--validations", "1", "--images", "300")


@dataclass(frozen=True)
class Data:
    """A data set: its conversion, and the recipe that we enter the race with."""

    conversion: Mapping[str, Any]
    recipe: str


DATA = {
    "bccd": Data({"convert.train": "trainval", "convert.val": "test", "convert.issues": "repair"}, "lite0_small"),
    "voc2007": Data({"convert.train": "train", "convert.val": "val"}, "voc2007_lite0"),
}


def _command(options: argparse.Namespace, side: str, seed: int, seconds: float, *more: str) -> list[str]:
    base = [sys.executable, "-m", "benchmarks.race", side, options.data, "--folder", str(options.folder)]
    changes = [argument for change in options.set for argument in ("--set", change)]
    return [*base, "--seconds", str(seconds), "--seeds", str(seed), *changes, *more]


def _run_together(commands: Sequence[Sequence[str]]) -> list[Result]:
    """Runs commands at the same time, with a thread and, as far as there are enough, a core each."""
    cores = sorted(os.sched_getaffinity(0))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    processes = []
    try:
        for number, command in enumerate(commands):
            processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment))
            os.sched_setaffinity(processes[-1].pid, {cores[number % len(cores)]})
        outputs = [process.communicate()[0] for process in processes]
    finally:
        for process in processes:  # without effect on those that have ended
            process.kill()
    if any(process.returncode for process in processes):
        sys.exit("a side failed; its error is above")
    return [results.parse(output.splitlines()[-1]) for output in outputs]


def run(options: argparse.Namespace) -> None:
    """Runs both sides for each seed at the same time, after the other side has chosen its learning rate."""
    prepare(options)
    trial = options.trial_seconds or options.seconds / _TRIAL
    tried = _run_together(
        [
            _command(options, "torchvision", options.seeds[0], trial, "--lr", str(lr), *_TRIAL_SCORES)
            for lr in _LEARNING_RATES
        ]
    )
    print(f"learning rates of torchvision: {[(t.settings, t.metrics['AP']) for t in tried]}", flush=True)
    _, lr = max(zip([result.metrics["AP"] or 0.0 for result in tried], _LEARNING_RATES, strict=True))
    validations = ("--validations", str(options.validations))
    for seed in options.seeds:
        sides = [
            _command(options, "ours", seed, options.seconds, *validations),
            _command(options, "torchvision", seed, options.seconds, "--lr", str(lr), *validations),
        ]
        for result in _run_together(sides):
            with options.results.open("a") as file:
                file.write(results.to_line(result) + "\n")
            print(results.row(result), flush=True)


def prepare(options: argparse.Namespace) -> None:
    """Downloads and converts the data into the folder, unless it is there."""
    folder = options.folder / options.data
    if not (folder / "data/unified/val.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        changes = {"dataset": "custom", "download.path": str(options.archive.resolve())}
        make_project(folder, changes | dict(DATA[options.data].conversion))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("action", choices=("run", "table", *results.SIDES))
    parser.add_argument("data", nargs="?", choices=tuple(DATA), default="bccd")
    parser.add_argument("--archive", type=Path, default=Path("bccd.zip"), help="the published archive")
    parser.add_argument("--seconds", type=float, default=600, help="CPU time that each side has")
    parser.add_argument("--trial-seconds", type=float, help="for each learning rate; default: a third of --seconds")
    parser.add_argument(
        "--validations", type=int, default=8, help="about so many validations of a training; their time is not counted"
    )
    parser.add_argument("--images", type=int, help="score about so many images, evenly spaced; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        help="a parameter, such as train.lr=0.01 (of our side) or train.size=[256,352] (of both)",
    )
    parser.add_argument("--lr", type=float, default=_LEARNING_RATES[1], help="of the other side")
    parser.add_argument("--folder", type=Path, default=Path(".race"), help="where converted data is kept")
    parser.add_argument("--results", type=Path, default=Path("race.jsonl"))
    options = parser.parse_args()
    if options.action == "run":
        run(options)
    elif options.action == "table":
        known = results.read(options.results)
        if not known:
            sys.exit(f"{options.results}: no results; run a race first")
        print(results.table(known))
        print(results.write_card(known, Path(__file__).parents[1] / "results"))
    else:
        print(results.to_line(_run_side(options)))


def _run_side(options: argparse.Namespace) -> Result:
    torch.set_num_threads(1)
    prepare(options)
    folder, recipe = options.folder / options.data, DATA[options.data].recipe
    train, val = read_splits(folder)
    if options.images:
        val = val.subset(val.images[:: max(1, len(val.images) // options.images)])
    race = Race(options.data, folder / "data/raw/custom", train, val, options.seconds, options.validations)
    params = override(recipes.load(recipe), [*options.set, f"seed={options.seeds[0]}", "machine.device=cpu"])
    if options.action == "ours":
        return ours.run(race, params, " ".join([recipe, *options.set]))
    return Loop(race, params, options.lr).run()


if __name__ == "__main__":
    try:
        main()
    except PipelineError as error:
        sys.exit(str(error))
