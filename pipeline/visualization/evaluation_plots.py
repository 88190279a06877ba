"""The plots of an evaluation: each table as a CSV file for `dvc plots`, and pictures of the tables as PNG files.

Texts are placed at known positions: with 80 classes, a layout that measures them takes seconds.
"""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from pipeline.evaluation.plot_tables import GRID, Table
from pipeline.visualization.figures import add_axes, escape_text, save_png, write_table
from pipeline.visualization.fonts import spell_out

Tables = Mapping[str, Table]
Panel = tuple[str, Mapping[str, Any], str]  # title, curves by the names in _COLORS, text in the panel

_COLORS = {"precision": "tab:green", "recall": "tab:orange", "all classes": "0.45", "class": "tab:blue"}
_BLUE, _GRAY = _COLORS["class"], _COLORS["all classes"]
_FRAME = np.array(((0, 0), (1, 0), (1, 1), (0, 1), (0, 0)))
_CROSS = np.array((((0.5, 0), (0.5, 1)), ((0, 0.5), (1, 0.5))))
_LINE = 0.2  # inches: the height of a bar, and of the name of a class
_MAX_NAME = 24  # letters of the name of a class
_MAX_NUMBERS = 26  # rows of a confusion matrix with numbers in its cells


def write_plots(tables: Tables, folder: Path) -> list[Path]:
    """Writes a CSV file for each table of `plot_tables`, and six pictures of them; returns the pictures."""
    for name, table in tables.items():
        write_table(table, folder / f"{name}.csv")
    for name, draw in _PICTURES.items():
        save_png(partial(draw, tables), folder / f"{name}.png")
    return [folder / f"{name}.png" for name in _PICTURES]


def _precision_recall(tables: Tables, figure: Figure) -> None:
    """A panel for the mean and one for each class. The numbers are AP50."""
    mean, classes = tables["precision_recall"]["precision"], _curves(tables["precision_recall_by_class"], "precision")
    panels = [
        (name, {"all classes": mean, "class": curve}, f"AP50 {np.mean(curve):.3f}") for name, curve in classes.items()
    ]
    if len(classes) != 1:
        panels.insert(0, (f"mean of {len(classes)} classes", {"all classes": mean}, f"AP50 {np.mean(mean):.3f}"))
    _draw_panels(figure, panels, "recall", "precision at IoU 0.5")


def _f1(tables: Tables, figure: Figure) -> None:
    """A panel for all detections together and one for each class, with the highest F1 and its score."""
    scores, classes = tables["scores"], _curves(tables["f1_by_class"], "F1")
    everything = {"precision": scores["precision"], "recall": scores["recall"], "all classes": scores["F1"]}
    panels = [("all classes", everything, _highest(scores["F1"]))]
    if len(classes) != 1:
        panels += [
            (name, {"all classes": scores["F1"], "class": curve}, _highest(curve)) for name, curve in classes.items()
        ]
    _draw_panels(figure, panels, "score threshold", "F1 at IoU 0.5")


def _reliability(tables: Tables, figure: Figure) -> None:
    """The share of correct detections over their scores, and the number of detections in each bin."""
    table = tables["reliability"]
    figure.set_size_inches(6, 7)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    share = add_axes(figure, grid[0], ylabel="share of correct detections", xlim=(0, 1), ylim=(0, 1.02))
    share.plot((0, 1), (0, 1), color=_GRAY, linestyle="--", label="equal to the score")
    share.plot(table["score"], table["correct"], marker="o", color=_BLUE, label="correct at IoU 0.5")
    share.legend(frameon=False, loc="upper left")
    count = add_axes(figure, grid[1], xlabel="score", ylabel="detections", xlim=(0, 1))
    count.bar(np.floor(np.asarray(table["score"]) * 10) / 10 + 0.05, table["detections"], width=0.09, color=_BLUE)
    if len(table["score"]):
        count.set(yscale="log", ylim=(0.8, None))


def _confusion(tables: Tables, figure: Figure) -> None:
    """Shares of the objects of each class as colors; the numbers of objects too, if there are few classes."""
    table = tables["confusion"]
    size = math.isqrt(len(table["count"]))
    names = [_short(name) for name in table["predicted"][:size]]
    counts, shares = (np.reshape(table[name], (size, size)) for name in ("count", "share"))
    numbers = size <= _MAX_NUMBERS
    side = size * (max(2 * _LINE, min(1.0, 6 / size)) if numbers else _LINE)
    margin = _width(names) + 0.4
    axes = _sized_axes(figure, side, max(side, 2), left=margin, bottom=margin, right=1.3, top=0.4)
    edges = np.arange(size + 1) - 0.5
    # Colors follow the square root, so that a few confused objects are visible.
    cells = axes.pcolormesh(
        edges, edges, np.where(counts > 0, shares, np.nan), cmap="Blues", norm=PowerNorm(0.5, vmin=0, vmax=1)
    )
    axes.set(xlim=edges[[0, -1]], ylim=edges[[-1, 0]], xticks=(), yticks=())
    for index, name in enumerate(names):
        axes.text(index, size - 0.5, f"{name} ", rotation=90, ha="center", va="top", fontsize="small")
        axes.text(-0.5, index, f"{name} ", ha="right", va="center", fontsize="small")
    for row, column in np.argwhere(counts > 0) if numbers else ():
        color = "white" if shares[row, column] > 0.4 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize="small", color=color)
    figure.colorbar(cells, cax=axes.inset_axes((1.02, 0, 0.2 / side, 1)), label="share of the row")
    _name_axes(figure, "predicted", "actual")


def _class_ap(tables: Tables, figure: Figure) -> None:
    table = tables["class_ap"]
    _draw_bars(figure, table["class"], table["AP"], "AP, with 95 % intervals", (table["low"], table["high"]))


def _error_costs(tables: Tables, figure: Figure) -> None:
    table = tables["error_costs"]
    _draw_bars(figure, table["error"], table["AP50_cost"], "AP50 that the errors of a kind cost")


def _draw_bars(figure: Figure, names: Any, values: Any, label: str, bounds: Any = None) -> None:
    """Horizontal bars, the longest at the top, with their values.

    Args:
        bounds: the lower and the upper bounds of intervals.
    """
    order = np.argsort(np.negative(values), kind="stable")
    values, texts = np.asarray(values, dtype=float)[order], [_short(names[index]) for index in order]
    axes = _sized_axes(figure, 6, _LINE * max(len(order), 1) + 0.1, left=_width(texts) + 0.2, bottom=0.6, top=0.2)
    axes.barh(range(len(order)), values, color=_BLUE, alpha=0.6)
    ends = values
    if bounds is not None:
        low, high = np.asarray(bounds, dtype=float)[:, order]
        axes.hlines(range(len(order)), low, high, color="0.2", linewidth=1)
        ends = np.fmax(values, high)
    for row, name in enumerate(texts):
        axes.text(0, row, f"{name} ", ha="right", va="center", fontsize="small")
        axes.text(ends[row], row, f" {values[row]:.3f}", va="center", fontsize="small")
    axes.set(yticks=(), ylim=(len(order) - 0.4, -0.6), xlabel=label, xlim=(0, 1.12 * max([*ends, 1e-3])))


def _draw_panels(figure: Figure, panels: Sequence[Panel], x_label: str, y_label: str) -> None:
    """Curves over the grid in panels, all on one pair of axes: 80 pairs take ten times as long."""
    columns = math.ceil(math.sqrt(len(panels)))
    size = 1.5 if columns > 2 else 3.0  # inches of a panel, which is a unit square of the axes
    step = np.array((1.12, 1.12 + 0.2 / size))  # from panel to panel, with room for the title
    width, height = np.array((columns, math.ceil(len(panels) / columns))) * step
    axes = _sized_axes(figure, width * size, height * size, left=0.7, bottom=0.55, right=0.1, top=0.35)
    axes.set(xlim=(0, width), ylim=(step[1] - height, step[1]))
    axes.axis("off")
    corners = np.array([(index % columns, -(index // columns)) for index in range(len(panels))]) * step
    _draw_lines(axes, [line + corner for corner in corners for line in _CROSS], color="0.85")
    _draw_lines(axes, [_FRAME + corner for corner in corners], color="0.3")
    for name, color in _COLORS.items():
        drawn = [
            (corner, curves[name]) for corner, (_, curves, _) in zip(corners, panels, strict=True) if name in curves
        ]
        lines = [np.stack((GRID[: len(curve)], curve), axis=1) + corner for corner, curve in drawn]
        _draw_lines(axes, lines, color=color, linewidth=1.2, label=name)
    for index, ((x, y), (title, _, text)) in enumerate(zip(corners, panels, strict=True)):
        axes.text(x, y + 1 + 0.04 / size, _short(title), fontsize="small")
        axes.text(x + 0.03, y + 0.05 / size, text, fontsize="small")
        for tick in (0, 0.5, 1):
            if index % columns == 0:
                axes.text(x - 0.05 / size, y + tick, f"{tick:g}", fontsize="x-small", ha="right", va="center")
            if index + columns >= len(panels):
                axes.text(x + tick, y - 0.05 / size, f"{tick:g}", fontsize="x-small", ha="center", va="top")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, fontsize="small", borderaxespad=0)
    _name_axes(figure, x_label, y_label)


def _draw_lines(axes: Axes, lines: Sequence[Any], color: str, linewidth: float = 0.6, label: str = "_") -> None:
    if lines:
        axes.add_collection(LineCollection(lines, colors=color, linewidths=linewidth, label=label), autolim=False)


def _name_axes(figure: Figure, x_label: str, y_label: str) -> None:
    """Writes the names at the lower and the left edge of the figure."""
    figure.supxlabel(x_label, fontsize="medium", y=0.08 / figure.get_figheight())
    figure.supylabel(y_label, fontsize="medium", x=0.08 / figure.get_figwidth())


def _sized_axes(
    figure: Figure, width: float, height: float, *, left: float, bottom: float, right: float = 0.2, top: float
) -> Axes:
    """Axes of a size in inches, in a figure with margins around it."""
    full = left + width + right, bottom + height + top
    figure.set_size_inches(full)
    return figure.add_axes((left / full[0], bottom / full[1], width / full[0], height / full[1]))


def _curves(table: Table, column: str) -> dict[str, Any]:
    """The values of each class."""
    curves: dict[str, list[float]] = {}
    for name, value in zip(table["class"], table[column], strict=True):
        curves.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in curves.items()}


def _highest(f1: Any) -> str:
    best = int(np.nan_to_num(f1).argmax())
    return f"F1 {f1[best]:.2f} at {GRID[best]:.2f}"


def _short(name: str) -> str:
    name = spell_out(name)
    return escape_text(name if len(name) <= _MAX_NAME else name[: _MAX_NAME - 1] + "…")


def _width(names: Sequence[str]) -> float:
    """Inches that the longest name needs, in small letters; those of East Asia are twice as wide."""
    letters = (sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in name) for name in names)
    return 0.075 * max(letters, default=0)


_PICTURES: dict[str, Callable[[Tables, Figure], None]] = {
    "precision_recall": _precision_recall,
    "f1": _f1,
    "reliability": _reliability,
    "confusion": _confusion,
    "class_ap": _class_ap,
    "error_costs": _error_costs,
}
