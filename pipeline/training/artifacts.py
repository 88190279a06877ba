"""What comes out of a training, as files: weights, curves, numbers."""

from pathlib import Path

from fcos.detector import Detector
from fcos.training.history import Best, History
from fcos.weights import Description, save_detector
from pipeline.data.annotations import AnnotationSet
from pipeline.files import remove
from pipeline.params import Params


def describe(params: Params, split: AnnotationSet) -> Description:
    """What has to be known to use the weights."""
    categories = tuple((category.id, category.name) for category in split.categories)
    return Description(model=params.model, categories=categories, input_size=params.train.input_size)


def write_weights(
    last: Detector, best: Best, description: Description, folder: Path, *, keep: str
) -> tuple[Path, Path]:
    """Writes the detector, and beside it the other weights: best.safetensors or last.safetensors.

    Args:
        last: gets the best weights when its own are written.
        keep: which of the two become the detector: last | best.

    Returns:
        The detector's file, and the other one.
    """
    paths = {name: folder / f"{'detector' if name == keep else name}.safetensors" for name in ("last", "best")}
    for old in (folder / f"{keep}.safetensors", folder / f"{keep}.json"):  # of a training that kept the other
        remove(old)
    save_detector(last, description, paths["last"])
    last.load_state_dict(best.weights)
    save_detector(last, description, paths["best"])
    other = "last" if keep == "best" else "best"
    return paths[keep], paths[other]


def early_stopping_message(history: History, best: Best, epochs: int) -> str:
    """A line that says so; empty where all epochs were trained."""
    if not history.stopped_early:
        return ""
    score = f"AP {best.row['AP']:.3f}" if "AP" in best.row else "the best"
    last = history.epochs[-1]["epoch"]
    return f"stopped early, after epoch {last:g} of {epochs}: {score} of epoch {best.row['epoch']:g} was not bettered"


def training_summary(history: History, best: Best, *, overfit: int, images_per_second: float) -> dict[str, object]:
    """metrics/train.json: the last tenth's mean losses, the last and the best validation, length, speed."""
    last = history.steps[-max(1, len(history.steps) // 10) :]
    names = ("total", "classification", "box", "quality", "quality_floor")
    return {
        "loss": {name: sum(row[name] for row in last) / len(last) for name in names},
        "val": {name: value for name, value in history.epochs[-1].items() if name not in ("epoch", "step")},
        "best": {"epoch": int(best.row["epoch"])} | {k: v for k, v in best.row.items() if k not in ("epoch", "step")},
        "steps": len(history.steps),
        "epochs": int(history.epochs[-1]["epoch"]),
        "stopped_early": history.stopped_early,
        "images_per_second": round(images_per_second, 2),
        **({"overfit": overfit} if overfit else {}),
    }
