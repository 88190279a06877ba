"""The files that a training produces: weights and metrics."""

from pathlib import Path

from fcos.detector import Detector
from fcos.training.amp import Name
from fcos.training.history import Best, History, Row
from fcos.weights import Description, save_detector
from pipeline.data.annotations import AnnotationSet
from pipeline.files import remove
from pipeline.params import Params


def describe(params: Params, split: AnnotationSet, precision: Name | None = None) -> Description:
    """The description saved beside the weights: everything that inference needs besides them."""
    categories = tuple((category.id, category.name) for category in split.categories)
    size = params.train.input_size
    return Description(model=params.model, categories=categories, input_size=size, precision=precision)


def write_weights(
    last: Detector, best: Best, description: Description, folder: Path, *, keep: str
) -> tuple[Path, Path]:
    """Writes the detector and, beside it, the weights that were not chosen: best.safetensors or last.safetensors.

    Args:
        last: the detector with the last weights; it has the best weights afterwards.
        keep: which weights become the detector: last | best.

    Returns:
        The paths of the detector and of the other weights.
    """
    paths = {name: folder / f"{'detector' if name == keep else name}.safetensors" for name in ("last", "best")}
    for stale in (folder / f"{keep}.safetensors", folder / f"{keep}.json"):  # from a training that kept the other
        remove(stale)
    save_detector(last, description, paths["last"])
    last.load_state_dict(best.weights)
    save_detector(last, description, paths["best"])
    other = "last" if keep == "best" else "best"
    return paths[keep], paths[other]


def early_stopping_message(history: History, best: Best, epochs: int) -> str:
    """A line about early stopping; empty if training ran for all epochs."""
    if not history.stopped_early:
        return ""
    score = f"AP {best.row['AP']:.3f}" if "AP" in best.row else "the score"
    last = history.epochs[-1]["epoch"]
    return f"stopped early after epoch {last:g} of {epochs}: no improvement on {score} of epoch {best.row['epoch']:g}"


def training_summary(
    history: History, best: Best, *, overfit: int, images_per_second: float | None
) -> dict[str, object]:
    """The contents of metrics/train.json: mean losses of the last tenth of the steps, validations, length and speed.

    The speed is null if the training had finished before and only its results were written again.
    """
    last = history.steps[-max(1, len(history.steps) // 10) :]
    names = ("total", "classification", "box", "quality", "quality_floor")
    return {
        "loss": {name: sum(row[name] for row in last) / len(last) for name in names},
        "val": _scores(history.epochs[-1]),
        "best": {"epoch": int(best.row["epoch"])} | _scores(best.row),
        "steps": int(history.steps[-1]["step"]),  # those of an extended training included
        "epochs": int(history.epochs[-1]["epoch"]),
        "stopped_early": history.stopped_early,
        "images_per_second": None if images_per_second is None else round(images_per_second, 2),
        **({"overfit": overfit} if overfit else {}),
    }


def _scores(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("epoch", "step")}
