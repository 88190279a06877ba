"""Curves as CSV files for `dvc plots`, and as PNG pictures. The same numbers give the same bytes."""

import csv
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager

from fcos.training.history import UNREPORTED, History, Row
from pipeline.evaluation.voc import VocMetrics
from pipeline.files import atomic_replace, write_text
from pipeline.visualization.fonts import packaged_fonts

_RECALL_STEPS = 100  # recalls 0, 0.01, …, 1, as in COCO's evaluation
_MAX_CLASSES = 20  # more curves are indistinguishable in a picture


def write_precision_recall(metrics: VocMetrics, path: Path) -> None:
    """Writes a CSV table of the interpolated precision at 101 recalls, at IoU 0.5: a row per recall.

    The columns are `recall`, one for each class that has objects, and `mean`, their mean. `mean` is the last column
    because `dvc plots` draws the last one by default. Classes are columns because `dvc plots` would connect the rows of
    a long table to a single curve.
    """
    curves = _precisions(metrics)
    table = {"recall": _recalls()} | {_column(name): curve for name, curve in curves.items()} | {"mean": _mean(curves)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([f"{value:.6g}" for value in row] for row in zip(*table.values(), strict=True))
    write_text(path, text.getvalue())


def plot_precision_recall(metrics: VocMetrics, path: Path) -> None:
    """Draws precision over recall for each class and their mean; only the mean if there are more than 20 classes."""
    curves = _precisions(metrics)

    def draw(axes: Axes) -> None:
        if len(curves) <= _MAX_CLASSES:
            axes.set_prop_cycle(color=colormaps["tab20"](range(_MAX_CLASSES)))
            for name, curve in curves.items():
                axes.plot(_recalls(), curve, linewidth=1, label=_escape_label(name))
        axes.plot(_recalls(), _mean(curves), color="black", linewidth=2, label=f"mean of {len(curves)} classes")
        axes.set(xlabel="recall", ylabel="precision at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small", frameon=False)

    _save_png(draw, path)


def write_training_curves(history: History, folder: Path, title: str = "") -> None:
    """Writes loss.csv (a row per step), validation.csv (a row per validation), loss.png and optimizer.png.

    Args:
        title: of loss.png, such as a note on early stopping.
    """
    steps = [{name: value for name, value in row.items() if name not in UNREPORTED} for row in history.steps]
    _write_csv(steps, folder / "loss.csv")
    _write_csv(history.epochs, folder / "validation.csv")
    plot_losses(history.steps, folder / "loss.png", title)
    plot_optimizer(history.steps, folder / "optimizer.png")


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with atomic_replace(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


def plot_losses(rows: Sequence[Mapping[str, float]], path: Path, title: str = "") -> None:
    """Draws the losses of a training by step, and its learning rate on a second axis.

    Args:
        rows: a row per logged step, with the keys step, total, classification, box, quality, learning_rate.
        path: the PNG file to write.
        title: the title of the picture, or an empty string.
    """
    steps = [row["step"] for row in rows]

    def draw(axes: Axes) -> None:
        for name in ("total", "classification", "box", "quality"):
            axes.plot(steps, [row[name] for row in rows], linewidth=2 if name == "total" else 1, label=name)
        rate = _plot_learning_rate(axes, rows)
        axes.set(xlabel="step", ylabel="loss", title=title)
        axes.set_ylim(bottom=0)
        axes.legend(handles=[*axes.get_lines(), *rate.get_lines()], frameon=False)

    _save_png(draw, path)


def plot_optimizer(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws the norm of the gradient before clipping by step, on a logarithmic axis, and the learning rate.

    Args:
        rows: a row per logged step, with the keys step, gradient_norm, learning_rate. A norm that is not finite, as in
            a step that fp16 skipped, leaves a gap.
        path: the PNG file to write.
    """
    steps = [row["step"] for row in rows]
    norms = np.array([row["gradient_norm"] for row in rows])

    def draw(axes: Axes) -> None:
        axes.plot(steps, np.where(np.isfinite(norms) & (norms > 0), norms, np.nan), label="gradient norm")
        axes.set_yscale("log")
        axes.set(xlabel="step", ylabel="gradient norm")
        rate = _plot_learning_rate(axes, rows)
        axes.legend(handles=[*axes.get_lines(), *rate.get_lines()], frameon=False)

    _save_png(draw, path)


def _plot_learning_rate(axes: Axes, rows: Sequence[Mapping[str, float]]) -> Axes:
    """Draws the learning rate on a second vertical axis, which is returned."""
    rate = axes.twinx()
    steps, values = [row["step"] for row in rows], [row["learning_rate"] for row in rows]
    rate.plot(steps, values, color="gray", linestyle=":", label="learning rate")
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    return rate


def _recalls() -> Any:
    return np.linspace(0, 1, _RECALL_STEPS + 1)


def _precisions(metrics: VocMetrics) -> dict[str, Any]:
    return {name: curve.precision_at(_RECALL_STEPS) for name, curve in metrics.per_class.items() if curve.objects}


def _mean(curves: Mapping[str, Any]) -> Any:
    return np.mean(list(curves.values()), axis=0) if curves else np.zeros(_RECALL_STEPS + 1)


def _column(name: str) -> str:
    return f"{name} (class)" if name in ("recall", "mean") else name


def _escape_label(name: str) -> str:
    # matplotlib hides labels that start with an underscore, and typesets text between dollar signs as a formula.
    return name.lstrip("_").replace("$", r"\$") or name


@cache
def _font_families() -> list[str]:
    """matplotlib takes each letter from the first of these fonts that has it."""
    for path in packaged_fonts():
        fontManager.addfont(path)
    return [FontProperties(fname=path).get_name() for path in packaged_fonts()]


def _save_png(draw: Callable[[Axes], None], path: Path) -> None:
    # pyplot would keep every figure in memory and choose a window system.
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    with rc_context({"font.family": _font_families()}), atomic_replace(path) as temporary, warnings.catch_warnings():
        # Letters of class names that no font has are drawn as boxes, without a warning per letter.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        draw(axes)
        figure.savefig(temporary, format="png", metadata={"Software": None})  # without matplotlib's version
