"""`python -m benchmarks`: runs all side-by-side measurements and writes a dated card with the results.

Both sides run in turn in the same process.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from benchmarks import augmentation, criterion, datasets, gpu, inference, loader, saving, training, training_loop
from benchmarks.harness import Limit, Measurement, Result, bench_card, check, measure, save_card, table

MEASUREMENTS: list[Measurement] = [
    *inference.MEASUREMENTS,
    *criterion.MEASUREMENTS,
    *training.MEASUREMENTS,
    *training_loop.MEASUREMENTS,
    *loader.MEASUREMENTS,
    *augmentation.MEASUREMENTS,
    *datasets.MEASUREMENTS,
    *gpu.MEASUREMENTS,
]
LIMITS: list[Limit] = [
    *criterion.LIMITS,
    *training.LIMITS,
    *loader.LIMITS,
    *datasets.LIMITS,
    *gpu.LIMITS,
    *saving.LIMITS,
]


def run(measurements: Sequence[Measurement], limits: Sequence[Limit], *, repeats: int, warmup: int) -> list[Result]:
    """Runs all measurements and prints each result as soon as it is available."""
    measured = (measure(measurement, repeats=repeats, warmup=warmup) for measurement in measurements)
    results = []
    for result in chain(measured, map(check, limits)):
        print(_format_result(result), file=sys.stderr, flush=True)
        results.append(result)
    return results


def _format_result(result: Result) -> str:
    if result.unavailable:
        return f"{result.name}: {result.unavailable}"
    verdict = "" if result.met else " (missed)"
    return f"{result.name}: {result.ratio or result.ours}, goal {result.goal}{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side measurements.")
    parser.add_argument("--quick", action="store_true", help="one repeat: tests that everything runs")
    parser.add_argument("--only", default="", metavar="TEXT", help="only measurements whose name contains TEXT")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each side")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the card")
    options = parser.parse_args()
    repeats, warmup = (1, 0) if options.quick else (options.repeats, min(2, options.repeats))
    results = run(
        [measurement for measurement in MEASUREMENTS if options.only in measurement.name],
        [limit for limit in LIMITS if options.only in limit.name],
        repeats=repeats,
        warmup=warmup,
    )
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    card = save_card(bench_card(results, command=command, repeats=repeats, warmup=warmup), "bench", options.out)
    print(f"{table(results)}\n\n{card}")


if __name__ == "__main__":
    main()
