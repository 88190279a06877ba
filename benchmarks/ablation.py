"""The paper's ablation in small: one change at a time from a reference, three seeds each, on the embedded data set.

    python -m benchmarks.ablation queue              # one DVC experiment a variant and seed, queued
    OMP_NUM_THREADS=1 dvc queue start -j 2           # two at a time, one core each
    python -m benchmarks.ablation table              # what those of this commit reached: printed, and a dated card

Queueing again queues only what is missing.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import context, save_card, today

# So small that a run takes a minute or two on one core.
SMALL = (
    "dataset=digits",
    "download.digits.train=400",
    "download.digits.val=200",
    "download.digits.size=192",
    "train.size=[192,192]",
    "train.epochs=7",
    "train.validate_every=7",
    "machine.device=cpu",
)


@dataclass(frozen=True)
class Variant:
    """What is set differently from the reference, and why."""

    about: str
    changes: tuple[str, ...] = ()


# FCOS with centerness on the box tower, center sampling of 1.5 strides, IoU loss, focal loss.
REFERENCE = (
    "loss=iou",
    "model.quality=centerness",
    "model.quality_tower=box",
    "model.box_loss_weighting=centerness",
    "model.assigner=fcos",
    "model.center_sampling_radius=1.5",
    "model.classification_loss=focal",
    "model.focal_alpha=0.25",
)
VARIANTS: dict[str, Variant] = {
    "reference": Variant("centerness on the box tower, center sampling, IoU loss"),
    "no-centerness": Variant(
        "no third branch, box loss unweighted", ("model.quality=none", "model.box_loss_weighting=none")
    ),
    "class-tower": Variant("centerness on the class tower", ("model.quality_tower=class",)),
    "no-center-sampling": Variant("every location inside a box is positive", ("model.center_sampling_radius=0.0",)),
    "giou": Variant("GIoU loss", ("loss=giou",)),
    "iou-branch": Variant("IoU in centerness's place", ("model.quality=iou",)),
    "atss": Variant("ATSS assignment", ("model.assigner=atss",)),
    "varifocal": Variant("varifocal loss", ("model.classification_loss=varifocal", "model.focal_alpha=0.75")),
}
METRICS = ("AP", "AP50")
_NAME = re.compile(r"ablation-(?P<variant>.+)-(?P<seed>\d+)")


@dataclass(frozen=True)
class Run:
    """One experiment that ended well."""

    variant: str
    seed: int
    metrics: Mapping[str, float]  # METRICS, as fractions of 1


def settings(variant: Variant, seed: int) -> list[str]:
    """Every parameter that a run sets: nothing is left to what params.yaml happens to say."""
    values = dict(setting.split("=", 1) for setting in (*SMALL, *REFERENCE, *variant.changes))
    return [f"{key}={value}" for key, value in values.items()] + [f"seed={seed}"]


def command(name: str, seed: int) -> list[str]:
    """`dvc exp run --queue` for one variant and seed, up to the stage evaluate."""
    chosen = [word for setting in settings(VARIANTS[name], seed) for word in ("-S", setting)]
    return ["dvc", "exp", "run", "--queue", "--name", f"ablation-{name}-{seed}", *chosen, "evaluate"]


def queue(seeds: int) -> None:
    """Queues what this commit's experiments and the queue don't have yet."""
    there = set(_queued()) | {f"ablation-{run.variant}-{run.seed}" for run in read(_shown())}
    for seed in range(seeds):
        for name in VARIANTS:
            if f"ablation-{name}-{seed}" not in there:
                subprocess.run(command(name, seed), check=True)
    print("Now: OMP_NUM_THREADS=1 dvc queue start -j 2")


def _queued() -> list[str]:
    """Names of experiments that wait or run."""
    rows = _dvc("queue", "status").splitlines()
    waiting = (row.split() for row in rows if re.search(r"\b(Queued|Running)\b", row))
    return [word for row in waiting for word in row if _NAME.fullmatch(word)]


def _shown() -> Any:
    return json.loads(_dvc("exp", "show", "--json"))


def _dvc(*arguments: str) -> str:
    return subprocess.run(["dvc", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def read(shown: Iterable[Mapping[str, Any]]) -> list[Run]:
    """The ablation's runs in what `dvc exp show --json` prints, by variant and seed."""
    found = []
    for experiment in (each for baseline in shown for each in baseline.get("experiments") or []):
        match = _NAME.fullmatch(experiment.get("name") or "")
        data = experiment["revs"][0].get("data") or {}
        scores = (data.get("metrics") or {}).get("metrics/evaluate.json", {}).get("data")
        if match and match["variant"] in VARIANTS and scores:
            metrics = {name: float(scores["coco"][name]) for name in METRICS}
            found.append(Run(match["variant"], int(match["seed"]), metrics))
    order = list(VARIANTS)
    return sorted(found, key=lambda run: (order.index(run.variant), run.seed))


def table(runs: Sequence[Run]) -> str:
    """A Markdown table, a variant a row: mean ± standard deviation, and the lowest and highest, in hundredths."""
    by_variant: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_variant[run.variant].append(run)
    rows = [f"| variant | what differs | seeds | {' | '.join(METRICS)} |", "|---|---|---|" + "---|" * len(METRICS)]
    for name, variant in VARIANTS.items():
        mine = by_variant[name]
        cells = [spread([run.metrics[metric] for run in mine]) for metric in METRICS]
        rows.append(f"| {name} | {variant.about} | {len(mine)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def spread(values: Sequence[float]) -> str:
    """`41.3 ± 0.5 (40.9–41.8)`: mean, sample standard deviation where there are two, range; fractions as hundredths."""
    if not values:
        return "–"
    mean, low, high = (f"{100 * value:.1f}" for value in (statistics.fmean(values), min(values), max(values)))
    return f"{mean} ± {100 * statistics.stdev(values):.1f} ({low}–{high})" if len(values) > 1 else mean


def card(runs: Sequence[Run]) -> str:
    """The whole card: what was run, the table, and what the spread means."""
    return f"""# Ablation on digits, {today()}

{context()}

    python -m benchmarks.ablation queue --seeds {len({run.seed for run in runs})}
    OMP_NUM_THREADS=1 dvc queue start -j 2
    python -m benchmarks.ablation table

Every run: `{" ".join(SMALL)}`; the rest is params.yaml's. Reference: `{" ".join(REFERENCE)}`.

{table(runs)}

AP and AP50 on the validation scenes, in hundredths: mean over the seeds ± their standard deviation (lowest–highest).
A seed changes everything random: the scenes, which digits are learned, the first weights, the order, the augmentation.
So all variants of a seed see the same data, and the spread between seeds holds the data's as well.
A difference smaller than the spread says nothing.
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablation", description="The paper's ablation in small.")
    parser.add_argument("action", choices=["queue", "table"])
    parser.add_argument("--seeds", type=int, default=3, help="queue: so many runs of each variant (default: 3)")
    asked = parser.parse_args()
    if asked.action == "queue":
        queue(asked.seeds)
        return
    runs = read(_shown())
    if not runs:
        sys.exit("ablation: this commit has no finished run; `dvc queue status` tells what waits, runs or failed")
    print(table(runs))
    print(save_card(card(runs), "ablation", Path("benchmarks")))


if __name__ == "__main__":
    main()
