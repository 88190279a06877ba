"""Measurements of several sides that take turns in one process, as a table of milliseconds and a card."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.harness import Side, Times, save_card, seconds_of, times

Rows = Mapping[str, Mapping[str, Times]]  # the times of each row's sides


def compare(sides: Mapping[str, Side], *, repeats: int, warmup: int) -> dict[str, Times]:
    """The times of calls that take turns."""
    for _ in range(warmup):
        for side in sides.values():
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            seconds[name].append(seconds_of(side))
    return {name: times(values) for name, values in seconds.items()}


def cell(measured: Times) -> str:
    """Milliseconds, in Markdown."""
    return f"{measured.median * 1e3:.3g} ({measured.low * 1e3:.3g}–{measured.high * 1e3:.3g})"


def main(
    rows: Mapping[str, Callable[[], Mapping[str, Side]]], card: Callable[[Rows, int], str], *, kind: str, about: str
) -> None:
    """Measures all rows, whose sides are made one row at a time, and writes a dated card.

    Args:
        card: the text of a card, from the times and the number of timed calls.
        kind: of the card, the end of its file's name.
        about: shown by `--help`.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of each side")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the card")
    options = parser.parse_args()
    measured = {}
    for name, prepare in rows.items():
        measured[name] = compare(prepare(), repeats=options.repeats, warmup=min(3, options.repeats))
        print(name, measured[name], flush=True)
    text = card(measured, options.repeats)
    print(f"{text}\n{save_card(text, kind, options.out)}")
