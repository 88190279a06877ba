"""Curves as data, for `dvc plots`, and as pictures, for people. The same numbers always give the same bytes."""

import csv
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fcos.training.history import UNREPORTED, History, Row
from pipeline.evaluation.voc import VocMetrics
from pipeline.files import atomic_replace, write_text

_STEPS = 100  # recalls 0, 0.01, …, 1, as COCO samples them
_MOST_CLASSES = 20  # more lines than that can't be told apart in a picture


def write_precision_recall(metrics: VocMetrics, path: Path) -> None:
    """Writes the best precision at each of 101 recalls, at IoU 0.5: a row a recall.

    The columns are `recall`, each class that has objects, and `mean` over them. `mean` is last since `dvc plots`
    draws the last column where nobody names one; a column a class, since it would join the rows of a long table
    to one line.
    """
    curves = _sampled(metrics)
    table = {"recall": _recalls()} | {_column(name): curve for name, curve in curves.items()} | {"mean": _mean(curves)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([f"{value:.6g}" for value in row] for row in zip(*table.values(), strict=True))
    write_text(path, text.getvalue())


def plot_precision_recall(metrics: VocMetrics, path: Path) -> None:
    """Draws those curves; only their mean where there are more than twenty classes."""
    curves = _sampled(metrics)

    def draw(axes: Axes) -> None:
        if len(curves) <= _MOST_CLASSES:
            axes.set_prop_cycle(color=colormaps["tab20"](range(_MOST_CLASSES)))
            for name, curve in curves.items():
                axes.plot(_recalls(), curve, linewidth=1, label=_plain(name))
        axes.plot(_recalls(), _mean(curves), color="black", linewidth=2, label=f"mean of {len(curves)} classes")
        axes.set(xlabel="recall", ylabel="precision at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize="small", frameon=False)

    _picture(draw, path)


def write_training_curves(history: History, folder: Path, title: str = "") -> None:
    """loss.csv, a row a step; validation.csv, a row an epoch; loss.png; optimizer.png."""
    told = [{name: value for name, value in row.items() if name not in UNREPORTED} for row in history.steps]
    _write_csv(told, folder / "loss.csv")
    _write_csv(history.epochs, folder / "validation.csv")
    plot_losses(history.steps, folder / "loss.png", title)
    plot_optimizer(history.steps, folder / "optimizer.png")


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with atomic_replace(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


def plot_losses(rows: Sequence[Mapping[str, float]], path: Path, title: str = "") -> None:
    """Draws a training's losses, and its learning rate on an axis of its own, by step.

    Args:
        rows: one for each logged step, with the keys step, total, classification, box, quality, learning_rate.
        path: the PNG to write.
        title: what stands above, where there is something to say.
    """
    steps = [row["step"] for row in rows]

    def draw(axes: Axes) -> None:
        for name in ("total", "classification", "box", "quality"):
            axes.plot(steps, [row[name] for row in rows], linewidth=2 if name == "total" else 1, label=name)
        rate = axes.twinx()
        rate.plot(steps, [row["learning_rate"] for row in rows], color="gray", linestyle=":", label="learning rate")
        rate.set_ylabel("learning rate")
        rate.set_ylim(bottom=0)
        axes.set(xlabel="step", ylabel="loss", title=title)
        axes.set_ylim(bottom=0)
        axes.legend(handles=[*axes.get_lines(), *rate.get_lines()], frameon=False)

    _picture(draw, path)


def plot_optimizer(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws a training's gradient norm, before clipping, on a logarithmic axis, and its learning rate, by step.

    Args:
        rows: one for each logged step, with the keys step, gradient_norm, learning_rate. A norm that isn't finite (of
            a step that fp16 left out) is a gap.
        path: the PNG to write.
    """
    steps = [row["step"] for row in rows]
    norms = np.array([row["gradient_norm"] for row in rows])

    def draw(axes: Axes) -> None:
        axes.plot(steps, np.where(np.isfinite(norms) & (norms > 0), norms, np.nan), label="gradient norm")
        axes.set_yscale("log")
        axes.set(xlabel="step", ylabel="gradient norm")
        rate = axes.twinx()
        rate.plot(steps, [row["learning_rate"] for row in rows], color="gray", linestyle=":", label="learning rate")
        rate.set_ylabel("learning rate")
        rate.set_ylim(bottom=0)
        axes.legend(handles=[*axes.get_lines(), *rate.get_lines()], frameon=False)

    _picture(draw, path)


def _recalls() -> Any:
    return np.linspace(0, 1, _STEPS + 1)


def _sampled(metrics: VocMetrics) -> dict[str, Any]:
    return {name: curve.precision_at(_STEPS) for name, curve in metrics.per_class.items() if curve.objects}


def _mean(curves: Mapping[str, Any]) -> Any:
    return np.mean(list(curves.values()), axis=0) if curves else np.zeros(_STEPS + 1)


def _column(name: str) -> str:
    return f"{name} (class)" if name in ("recall", "mean") else name


def _plain(name: str) -> str:
    # matplotlib hides a label that begins with an underscore, and sets what stands between dollars as a formula.
    return name.lstrip("_").replace("$", r"\$") or name


def _picture(draw: Callable[[Axes], None], path: Path) -> None:
    # Without pyplot: that keeps every figure for ever, and picks a window system.
    figure = Figure(figsize=(8, 4.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    draw(axes)
    with atomic_replace(path) as temporary, warnings.catch_warnings():
        # A class name in a script that the font lacks is drawn as boxes: no reason to stop, or to fill a terminal.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(temporary, format="png", metadata={"Software": None})  # matplotlib's version is no content
