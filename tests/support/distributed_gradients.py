"""Gradients of a batch shared by processes; a test starts two `python -m tests.support.distributed_gradients FILE`."""

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
from fcos.training.distributed import Processes, group
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
    """Of a step with these images, worked through in so many parts."""
    model, box_loss, _ = CASES[name]
    torch.manual_seed(0)
    detector = build(model, 3)
    network = processes.wrap(detector)
    criterion = Criterion(model, box_loss=box_loss, mean_over_processes=processes.mean, processes=processes.world_size)

    def learn(part: list[int]) -> None:
        one = batch(part)
        losses = criterion(network(detector.normalize_batch(one.pixels, one.sizes)).float(), one.targets)
        (losses.total / parts).backward()

    share = len(images) // parts
    with processes.no_sync(network):
        for part in range(parts - 1):
            learn(images[part * share : (part + 1) * share])
    learn(images[-share:])
    learned = [(name, parameter) for name, parameter in detector.named_parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for _, parameter in learned)
    return {name: parameter.grad.clone() for name, parameter in learned if parameter.grad is not None}


def answers(processes: Processes) -> dict[str, Any]:
    """What processes say to each other."""
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
        "first": processes.broadcast_object({"weights": torch.full((3,), rank)} if rank == 0 else None),
        "running mean": norm.running_mean,
    }


def main() -> None:
    with group(torch.device("cpu")) as processes:
        found = {name: gradients(name, images[processes.rank], processes) for name, (_, _, images) in CASES.items()}
        found["in parts"] = gradients("giou", CASES["giou"][2][processes.rank], processes, parts=2)
        torch.save({"gradients": found, "answers": answers(processes)}, Path(sys.argv[1]) / f"{processes.rank}.pt")


if __name__ == "__main__":
    main()
