"""`fcos summary`: layers and costs of the detector, and the best possible recall, as text and as JSON."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.analysis.assignment import NEEDS_PREDICTIONS, level_name
from pipeline.analysis.best_possible_recall import Recall
from pipeline.analysis.training_memory import TrainingMemory
from pipeline.data import annotations
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import count_noun, format_table
from pipeline.inference.network_costs import NetworkCosts
from pipeline.params import Params

SPLIT_PATH = "data/unified/train.json"
DEFAULT_CLASSES = 80  # COCO's, if there is no data set


def read_split(params: Params, home: Path) -> tuple[AnnotationSet | None, str | None]:
    """The training split, if it exists; and, if there can't be a best possible recall, the reason in one line."""
    path = home / SPLIT_PATH
    if not path.is_file():
        return None, (
            f"{path}: does not exist yet; {DEFAULT_CLASSES} classes are assumed, and the best possible recall is left "
            "out: run `dvc repro convert` first"
        )
    if params.model.assigner in NEEDS_PREDICTIONS:
        return annotations.read(path), (
            f"no best possible recall: model.assigner {params.model.assigner} needs the predictions of a detector"
        )
    return annotations.read(path), None


def report(params: Params, classes: int, costs: NetworkCosts, memory: TrainingMemory) -> str:
    """Layers, totals and training memory as tables."""
    model, (height, width) = params.model, costs.input_size
    levels = ", ".join(level_name(stride) for stride in model.strides)
    layers = [(layer.name, layer.output, f"{layer.parameters:,}", f"{layer.flops / 1e9:.2f}") for layer in costs.layers]
    total = ("total", f"{costs.locations:,} locations", f"{costs.parameters:,}", f"{costs.flops / 1e9:.2f}")
    return "\n".join(
        [
            f"{model.backbone}, {model.neck} with {levels}, {count_noun(classes, 'class', 'classes')}; "
            f"one image of {height}×{width} pixels",
            "",
            format_table([("part", "channels × sides", "parameters", "GFLOPs"), *layers, total], "lrrr"),
            "",
            f"FLOPs are 2 × multiply-adds ({costs.flops / 2e9:.2f} G) of convolutions and matrix products. "
            f"{costs.parameters - costs.trainable:,} of the parameters are frozen.",
            "",
            _memory_table(memory, params.train.optimizer),
            "Convolutions need additional workspace while they run.",
        ]
    )


def _memory_table(memory: TrainingMemory, optimizer: str) -> str:
    sizes = {
        "weights and statistics": memory.weights,
        "gradients": memory.gradients,
        f"state of {optimizer}": memory.optimizer,
        "moving average of the weights": memory.ema,
        "activations for the backward pass": memory.activations,
        "total": memory.total,
    }
    heading = (f"training step, batch of {memory.batch_size}, float32", "MiB")
    return format_table([heading, *((name, f"{size / 2**20:,.1f}") for name, size in sizes.items())], "lr")


def to_record(classes: int, costs: NetworkCosts, memory: TrainingMemory, recall: Recall | None) -> dict[str, Any]:
    """Everything for JSON: FLOPs are 2 × multiply-adds, memory is in bytes."""
    return {
        "classes": classes,
        "network": asdict(costs),
        "memory": asdict(memory) | {"total": memory.total},
        "recall": asdict(recall) if recall else None,
    }
