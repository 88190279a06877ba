"""`python -m benchmarks`: every side-by-side measurement, and a dated card of what came out.

Against torchvision's FCOS, in the same process, call by call in turn.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from benchmarks import criterion, datasets, gpu, inference, loader, saving, training
from benchmarks.harness import Limit, Measurement, Result, bench_card, check, measure, save_card, table

MEASUREMENTS: list[Measurement] = [
    *inference.MEASUREMENTS,
    *criterion.MEASUREMENTS,
    *training.MEASUREMENTS,
    *loader.MEASUREMENTS,
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
    """All of them, one after the other; says each when it is done."""
    measured = (measure(one, repeats=repeats, warmup=warmup) for one in measurements)
    results = []
    for result in chain(measured, map(check, limits)):
        print(_line(result), file=sys.stderr, flush=True)
        results.append(result)
    return results


def _line(result: Result) -> str:
    if result.unavailable:
        return f"{result.name}: {result.unavailable}"
    verdict = "" if result.met else " (missed)"
    return f"{result.name}: {result.ratio or result.ours}, goal {result.goal}{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Side-by-side measurements.")
    parser.add_argument("--quick", action="store_true", help="one repeat: whether it runs, not how fast")
    parser.add_argument("--only", default="", metavar="TEXT", help="measurements whose name holds this")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder for the card")
    asked = parser.parse_args()
    repeats, warmup = (1, 0) if asked.quick else (15, 3)
    results = run(
        [one for one in MEASUREMENTS if asked.only in one.name],
        [one for one in LIMITS if asked.only in one.name],
        repeats=repeats,
        warmup=warmup,
    )
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    card = save_card(bench_card(results, command=command, repeats=repeats, warmup=warmup), "bench", asked.out)
    print(f"{table(results)}\n\n{card}")


if __name__ == "__main__":
    main()
