"""A small version of the paper's ablation on `digits`: variants with one change from a reference, three seeds each.

    python -m benchmarks.ablation queue              # queues a DVC experiment for each variant and seed
    OMP_NUM_THREADS=1 dvc queue start -j 2           # two at a time, one core each
    python -m benchmarks.ablation table              # prints the results of this commit and writes a dated card

`queue` skips experiments that are finished or already queued.
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

# A run takes a minute or two on one core.
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
    """A description, and the parameters that differ from the reference."""

    description: str
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
    "iou-branch": Variant("IoU instead of centerness", ("model.quality=iou",)),
    "atss": Variant("ATSS assignment", ("model.assigner=atss",)),
    "varifocal": Variant("varifocal loss", ("model.classification_loss=varifocal", "model.focal_alpha=0.75")),
}
METRICS = ("AP", "AP50")
_NAME = re.compile(r"ablation-(?P<variant>.+)-(?P<seed>\d+)")


@dataclass(frozen=True)
class Run:
    """A successful experiment."""

    variant: str
    seed: int
    metrics: Mapping[str, float]  # METRICS, as fractions of 1


def settings(variant: Variant, seed: int) -> list[str]:
    """All parameters that a run sets, the reference's included, so that edits of params.yaml don't change them."""
    values = dict(setting.split("=", 1) for setting in (*SMALL, *REFERENCE, *variant.changes))
    return [f"{key}={value}" for key, value in values.items()] + [f"seed={seed}"]


def command(name: str, seed: int) -> list[str]:
    """`dvc exp run --queue` of a variant and seed, up to the evaluate stage."""
    options = [word for setting in settings(VARIANTS[name], seed) for word in ("-S", setting)]
    return ["dvc", "exp", "run", "--queue", "--name", f"ablation-{name}-{seed}", *options, "evaluate"]


def queue(seeds: int) -> None:
    """Queues the experiments that are neither finished on this commit nor queued."""
    existing = {*_queued_names(), *(f"ablation-{run.variant}-{run.seed}" for run in read_runs(_show_experiments()))}
    for seed in range(seeds):
        for name in VARIANTS:
            if f"ablation-{name}-{seed}" not in existing:
                subprocess.run(command(name, seed), check=True)
    print("Next: OMP_NUM_THREADS=1 dvc queue start -j 2")


def _queued_names() -> list[str]:
    """Names of queued and running experiments."""
    rows = _dvc("queue", "status").splitlines()
    pending = (row.split() for row in rows if re.search(r"\b(Queued|Running)\b", row))
    return [word for row in pending for word in row if _NAME.fullmatch(word)]


def _show_experiments() -> Any:
    return json.loads(_dvc("exp", "show", "--json"))


def _dvc(*arguments: str) -> str:
    return subprocess.run(["dvc", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def read_runs(baselines: Iterable[Mapping[str, Any]]) -> list[Run]:
    """The ablation's successful runs in the output of `dvc exp show --json`, sorted by variant and seed."""
    runs = []
    for experiment in (experiment for baseline in baselines for experiment in baseline.get("experiments") or []):
        match = _NAME.fullmatch(experiment.get("name") or "")
        data = experiment["revs"][0].get("data") or {}
        scores = (data.get("metrics") or {}).get("metrics/evaluate.json", {}).get("data")
        if match and match["variant"] in VARIANTS and scores:
            metrics = {name: float(scores["coco"][name]) for name in METRICS}
            runs.append(Run(match["variant"], int(match["seed"]), metrics))
    order = list(VARIANTS)
    return sorted(runs, key=lambda run: (order.index(run.variant), run.seed))


def table(runs: Sequence[Run]) -> str:
    """A Markdown table with a row for each variant: mean ± standard deviation (lowest–highest), in percent."""
    by_variant: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_variant[run.variant].append(run)
    rows = [f"| variant | difference | seeds | {' | '.join(METRICS)} |", "|---|---|---|" + "---|" * len(METRICS)]
    for name, variant in VARIANTS.items():
        cells = [spread([run.metrics[metric] for run in by_variant[name]]) for metric in METRICS]
        rows.append(f"| {name} | {variant.description} | {len(by_variant[name])} | {' | '.join(cells)} |")
    return "\n".join(rows)


def spread(values: Sequence[float]) -> str:
    """`41.3 ± 0.5 (40.9–41.8)`: mean, sample standard deviation (of two values or more) and range, in percent."""
    if not values:
        return "–"
    mean, low, high = (f"{100 * value:.1f}" for value in (statistics.fmean(values), min(values), max(values)))
    return f"{mean} ± {100 * statistics.stdev(values):.1f} ({low}–{high})" if len(values) > 1 else mean


def card(runs: Sequence[Run]) -> str:
    """The complete card: commands, parameters, table and the meaning of the spread."""
    return f"""# Ablation on digits, {today()}

{context()}

    python -m benchmarks.ablation queue --seeds {len({run.seed for run in runs})}
    OMP_NUM_THREADS=1 dvc queue start -j 2
    python -m benchmarks.ablation table

Every run: `{" ".join(SMALL)}`; other parameters as in params.yaml. Reference: `{" ".join(REFERENCE)}`.

{table(runs)}

AP and AP50 on the validation scenes, in percent: mean over the seeds ± standard deviation (lowest–highest).
The seed changes the initial weights, the order of images and the augmentation. All runs use the same images.
A difference smaller than the spread is not significant.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation", description="A small version of the paper's ablation."
    )
    parser.add_argument("action", choices=["queue", "table"])
    parser.add_argument("--seeds", type=int, default=3, help="queue: runs of each variant (default: 3)")
    options = parser.parse_args()
    if options.action == "queue":
        queue(options.seeds)
        return
    runs = read_runs(_show_experiments())
    if not runs:
        sys.exit("ablation: this commit has no finished run; `dvc queue status` lists queued, running and failed ones")
    print(table(runs))
    print(save_card(card(runs), "ablation", Path(__file__).parent / "results"))


if __name__ == "__main__":
    main()
