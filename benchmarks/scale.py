"""How time and memory grow with the number of images, of objects in an image and of classes, and with the input size.

    make bench SCALE=1     # or python -m benchmarks.scale; --only TEXT measures what has TEXT in its name

Everything is synthetic. Each size is measured in a process of its own, with one thread, in CPU seconds, so that other
work on the machine hardly matters. Writes a dated card, and docs/images/scale.png.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import linear_regression
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness import context, save_card, today
from benchmarks.scaled_calls import MEASURED, Cost, Load, Measured, measure
from pipeline.visualization.figures import add_axes, save_png

PROJECT = Path(__file__).parents[1]
_NOISE = 8.0  # MiB: smaller peaks depend on the allocator
_TOLERANCE = 0.15  # of an exponent
VARIABLES = {  # field of Load: how the card names it, and the largest exponent that is expected of it
    "images": ("images", 1),
    "objects": ("objects in an image", 1),
    "classes": ("classes", 1),
    "pixels": ("side of the input", 2),
}


@dataclass(frozen=True)
class Curve:
    """The costs at increasing sizes."""

    name: str
    variable: str  # field of Load
    base: Load
    sizes: Sequence[int]
    costs: Sequence[Cost]


def run(measured: Mapping[str, Measured]) -> list[Curve]:
    """Measures everything, and prints each cost as soon as it is known."""
    curves = []
    for name, thing in measured.items():
        for variable, sizes in thing.sizes.items():
            costs = []
            for size in sizes:
                costs.append(measure(thing, replace(thing.base, **{variable: size})))
                print(f"{name}: {size} {variable}: {costs[-1].seconds:.3g} s, {costs[-1].memory:.0f} MiB", flush=True)
            curves.append(Curve(name, variable, thing.base, sizes, costs))
    return curves


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float | None:
    """The slope of the upper half of a curve between logarithmic axes; None if a value is not positive."""
    first = min(len(sizes) // 2, len(sizes) - 2)
    if min(values[first:]) <= 0:
        return None
    return linear_regression(*([math.log(value) for value in part[first:]] for part in (sizes, values))).slope


def _memory_exponent(curve: Curve) -> float | None:
    memory = [cost.memory for cost in curve.costs]
    return exponent(curve.sizes, memory) if memory[-1] >= _NOISE else None


def card(curves: Sequence[Curve]) -> str:
    """The card, in Markdown."""
    rows = "\n".join(map(_row, curves))
    return f"""# How cost grows, {today()}

{context()}, one thread

    make bench SCALE=1

CPU seconds and the increase of the process's peak memory by one call. An exponent is the slope of the upper half of a
curve between logarithmic axes: 1 is a straight line. Exponents above the expected one ({_expected()})
are bold. Peaks below {_NOISE:.0f} MiB depend on the allocator and have no exponent.

| | grows | at | CPU seconds | exponent | MiB | exponent |
|---|---|---|---|---|---|---|
{rows}

![The same as curves](../../docs/images/scale.png)
"""


def _expected() -> str:
    return ", ".join(f"{name} {largest}" for name, largest in VARIABLES.values())


def _row(curve: Curve) -> str:
    name, expected = VARIABLES[curve.variable]
    seconds = [cost.seconds for cost in curve.costs]
    cells = (
        curve.name,
        name,
        " · ".join(f"{size:,}" for size in curve.sizes),
        " · ".join(f"{value:.3g}" for value in seconds),
        _format(exponent(curve.sizes, seconds), expected),
        " · ".join(f"{cost.memory:.0f}" for cost in curve.costs),
        _format(_memory_exponent(curve), expected),
    )
    return f"| {' | '.join(cells)} |"


def _format(slope: float | None, expected: int) -> str:
    if slope is None:
        return "–"
    return f"**{slope:.2f}**" if slope > expected + _TOLERANCE else f"{slope:.2f}"


def plot(curves: Sequence[Curve], path: Path) -> None:
    """Time and memory by each variable, between logarithmic axes, with a line of the expected slope."""
    names = list(dict.fromkeys(curve.name for curve in curves))

    def draw(figure: Figure) -> None:
        for column, (variable, (label, expected)) in enumerate(VARIABLES.items(), start=1):
            for row, (quantity, unit) in enumerate((("seconds", "CPU seconds"), ("memory", "peak, MiB"))):
                axes = add_axes(figure, 2, len(VARIABLES), row * len(VARIABLES) + column, xlabel=label, ylabel=unit)
                axes.set(xscale="log", yscale="log")
                for curve in (curve for curve in curves if curve.variable == variable):
                    values = [getattr(cost, quantity) for cost in curve.costs]
                    kept = [(s, v) for s, v in zip(curve.sizes, values, strict=True) if v >= (1 if row else 0)]
                    if kept:
                        axes.plot(*zip(*kept, strict=True), "o-", ms=3, color=f"C{names.index(curve.name)}")
                _draw_slope(axes, expected)
        handles = [figure.axes[0].plot([], [], "o-", ms=3, color=f"C{index}")[0] for index in range(len(names))]
        guide = figure.axes[0].plot([], [], ":", color="gray")[0]
        figure.legend([*handles, guide], [*names, "expected slope"], loc="outside lower center", ncols=5, frameon=False)

    save_png(draw, path, (14, 7.5))


def _draw_slope(axes: Any, slope: int) -> None:
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    start = max(bottom, top / (high / low) ** slope)
    axes.plot([low, high], [start, start * (high / low) ** slope], ":", color="gray")
    axes.set(xlim=(low, high), ylim=(bottom, top))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="only what has TEXT in its name")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the card")
    parser.add_argument("--plot", type=Path, default=PROJECT / "docs/images/scale.png", help="the picture's file")
    options = parser.parse_args()
    curves = run({name: thing for name, thing in MEASURED.items() if options.only in name})
    plot(curves, options.plot)
    text = card(curves)
    print(f"{text}\n{save_card(text, 'scale-cpu', options.out)}")


if __name__ == "__main__":
    main()
