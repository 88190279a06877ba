"""The results of races, their table and their card."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.harness import context, save_card, today
from benchmarks.race.scoring import Result

SIDES = ("ours", "torchvision")


def read(path: Path) -> list[Result]:
    return [parse(line) for line in path.read_text().splitlines()] if path.is_file() else []


def parse(line: str) -> Result:
    return Result(**json.loads(line))


def to_line(result: Result) -> str:
    return json.dumps(asdict(result))


def time_to_reach(curve: Sequence[Sequence[float]], ap: float) -> float | None:
    """CPU seconds of the first validation with at least this AP."""
    return next((point[0] for point in curve if point[1] >= ap), None)


def table(results: Sequence[Result]) -> str:
    """A Markdown table: a row for each training, with the time at which it had reached the other side's final AP."""
    final = {(result.data, result.seed, result.side): result for result in results}
    rows = [
        "| data | seed | side | settings | epochs | CPU s | AP | AP50 | AP75 | reached the other's AP after |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        other = final.get((result.data, result.seed, SIDES[1 - SIDES.index(result.side)]))
        reached = time_to_reach(result.curve, other.metrics["AP"] or 0.0) if other else None
        rows.append(f"{row(result)} {'–' if reached is None else f'{reached:.0f} s'} |")
    return "\n".join(rows)


def row(result: Result) -> str:
    cells = [
        *(result.data, result.seed, result.side, result.settings, result.epochs, f"{result.seconds:.0f}"),
        *(_with_interval(result, name) for name in ("AP", "AP50")),
        _percent(result.metrics["AP75"]),
    ]
    return f"| {' | '.join(map(str, cells))} |"


def _with_interval(result: Result, name: str) -> str:
    low, high = map(_percent, result.intervals[name])
    return f"{_percent(result.metrics[name])} ({low} to {high})"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def write_card(results: Sequence[Result], folder: Path) -> Path:
    text = f"""# A race against torchvision's FCOS, {today()}

{context()}

    python -m benchmarks.race run DATA --archive ARCHIVE --seconds SECONDS --seeds SEEDS … (the run's options)

{table(results)}

AP in percent, with 95 % intervals over images. CPU time of one core a side, without validation.
"""
    return save_card(text, "race", folder)
