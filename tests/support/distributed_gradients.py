"""Gradients of a batch shared by processes; tests start two `python -m tests.support.distributed_gradients FOLDER`."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcos.config import ModelConfig
from fcos.criterion import Criterion
from fcos.detector import build
from fcos.training.distributed import Processes, process_group
from tests.support.distributed_training import MODEL, batch

_FIRST, _SECOND = [0, 1, 2, 3], [4, 5, 6, 7]
_SOFT = replace(MODEL, assigner="task_aligned", classification_loss="varifocal", quality="none")
# Model, box loss, and the images of the first and of the second process.
CASES: dict[str, tuple[ModelConfig, str, Sequence[list[int]]]] = {
    "iou": (MODEL, "iou", (_FIRST, _SECOND)),
    "giou": (replace(MODEL, quality_tower="class"), "giou", (_FIRST, _SECOND)),
    "unweighted": (replace(MODEL, box_loss_weighting="none"), "l1", (_FIRST, _SECOND)),
    "atss, IoU": (replace(MODEL, assigner="atss", quality="iou", box_loss_weighting="iou"), "ciou", (_FIRST, _SECOND)),
    "task_aligned": (_SOFT, "giou", (_FIRST, _SECOND)),
    "no object in one": (MODEL, "giou", ([3, 11], [0, 5])),
    "no object": (MODEL, "giou", ([3, 11], [19, 27])),
}


def gradients(name: str, images: list[int], processes: Processes, parts: int = 1) -> dict[str, Tensor]:
    """Gradients of a step with these images, split into equal parts."""
    model, box_loss, _ = CASES[name]
    torch.manual_seed(0)
    detector = build(model, 3)
    network = processes.wrap(detector)
    criterion = Criterion(model, box_loss=box_loss, mean_over_processes=processes.mean, processes=processes.world_size)

    def backward(part: list[int]) -> None:
        images = batch(part)
        losses = criterion(network(detector.normalize_batch(images.pixels, images.sizes)).float(), images.targets)
        (losses.total / parts).backward()

    share = len(images) // parts
    with processes.no_sync(network):
        for part in range(parts - 1):
            backward(images[part * share : (part + 1) * share])
    backward(images[-share:])
    trained = [(name, parameter) for name, parameter in detector.named_parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for _, parameter in trained)
    return {name: parameter.grad.clone() for name, parameter in trained if parameter.grad is not None}


def communicate(processes: Processes) -> dict[str, Any]:
    """Results of the operations between processes."""
    rank = processes.rank
    value = torch.tensor([1.0 + rank, 5.0])
    norm = torch.nn.BatchNorm2d(2)
    norm(torch.full((1, 2, 3, 3), float(rank + 1)))
    processes.broadcast_buffers(norm)
    return {
        "world_size": processes.world_size,
        "mean": processes.mean(value),
        "value": value,
        "max": processes.max(3 - 2 * rank),
        "all_gather_object": processes.all_gather_object({"rank": rank}),
        "broadcast_object": processes.broadcast_object({"weights": torch.full((3,), rank)} if rank == 0 else None),
        "running mean": norm.running_mean,
    }


def running_means(processes: Processes) -> list[Tensor]:
    """Batch norm's statistics after each of two training steps, then after `broadcast_buffers`."""
    norm = torch.nn.BatchNorm2d(2, momentum=0.5)
    network = processes.wrap(norm)
    means = []
    for step in (1, 2):
        network(torch.full((2, 2, 3, 3), float(step + 10 * processes.rank))).sum().backward()
        means.append(_copy(norm.running_mean))
    processes.broadcast_buffers(norm)
    return [*means, _copy(norm.running_mean)]


def _copy(value: Tensor | None) -> Tensor:
    assert value is not None
    return value.clone()


def main() -> None:
    with process_group(torch.device("cpu")) as processes:
        results = {name: gradients(name, images[processes.rank], processes) for name, (_, _, images) in CASES.items()}
        results["in parts"] = gradients("giou", CASES["giou"][2][processes.rank], processes, parts=2)
        outcome = {
            "gradients": results,
            "communication": communicate(processes),
            "running means": running_means(processes),
        }
        torch.save(outcome, Path(sys.argv[1]) / f"{processes.rank}.pt")


if __name__ == "__main__":
    main()
