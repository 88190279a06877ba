"""Learning curves: losses, validation and the optimizer by step, as CSV and PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fcos.training.history import UNREPORTED, History, Row
from pipeline.visualization.figures import add_axes, save_png, write_table


def write_training_curves(history: History, folder: Path, title: str = "") -> None:
    """Writes loss.csv (a row per step), validation.csv (a row per validation), loss.png and optimizer.png.

    Args:
        title: of loss.png, such as a note on early stopping.
    """
    reported = [name for name in history.steps[0] if name not in UNREPORTED]
    write_table({name: [row[name] for row in history.steps] for name in reported}, folder / "loss.csv")
    write_table({name: [row[name] for row in history.epochs] for name in history.epochs[0]}, folder / "validation.csv")
    plot_losses(history.steps, history.epochs, folder / "loss.png", title)
    plot_optimizer(history.steps, folder / "optimizer.png")


def plot_losses(steps: Sequence[Row], validations: Sequence[Row], path: Path, title: str = "") -> None:
    """Draws the losses of a training with its learning rate, and AP on the validation split, by step.

    Args:
        steps: a row per step, with the keys step, total, classification, box, quality, learning_rate.
        validations: a row per validation, with the keys step, AP, AP50.
        path: the PNG file to write.
        title: the title of the picture, or an empty string.
    """

    def draw(figure: Figure) -> None:
        axes = add_axes(figure, 2, 1, 1, ylabel="loss", title=title)
        for name in ("total", "classification", "box", "quality"):
            _plot(axes, steps, name, linewidth=2 if name == "total" else 1)
        axes.set_ylim(bottom=0)
        rate = _plot_learning_rate(axes, steps)
        axes.legend(handles=[*axes.get_lines(), *rate.get_lines()], frameon=False, fontsize="small")
        validation = add_axes(figure, 2, 1, 2, xlabel="step", ylabel="AP on the validation split", xlim=axes.get_xlim())
        for name in ("AP50", "AP"):
            _plot(validation, validations, name, marker="o", markersize=3)
        validation.set_ylim(bottom=0)
        validation.legend(frameon=False, fontsize="small", loc="upper left")

    save_png(draw, path, (8, 7))


def plot_optimizer(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draws the norm of the gradient before clipping by step, on a logarithmic axis, and the learning rate.

    Args:
        rows: a row per logged step, with the keys step, gradient_norm, learning_rate. A norm that is not finite, as in
            a step that fp16 skipped, leaves a gap.
        path: the PNG file to write.
    """
    steps = [row["step"] for row in rows]
    norms = np.array([row["gradient_norm"] for row in rows])

    def draw(figure: Figure) -> None:
        axes = add_axes(figure, xlabel="step", ylabel="gradient norm", yscale="log")
        axes.plot(steps, np.where(np.isfinite(norms) & (norms > 0), norms, np.nan), label="gradient norm")
        rate = _plot_learning_rate(axes, rows)
        axes.legend(handles=[*axes.get_lines(), *rate.get_lines()], frameon=False)

    save_png(draw, path)


def _plot(axes: Axes, rows: Sequence[Mapping[str, float]], name: str, **style: Any) -> None:
    axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=name.replace("_", " "), **style)


def _plot_learning_rate(axes: Axes, rows: Sequence[Mapping[str, float]]) -> Axes:
    """Draws the learning rate on a second vertical axis, which is returned."""
    rate = axes.twinx()
    _plot(rate, rows, "learning_rate", color="gray", linestyle=":")
    rate.set_ylabel("learning rate")
    rate.set_ylim(bottom=0)
    return rate
