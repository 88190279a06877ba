"""The time that saving a training's state costs: the copy that training waits for, and steps slowed by the writing."""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Limit, seconds_of
from fcos.config import PAPER
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.structures import make_targets
from fcos.training.checkpoints import Checkpoint
from fcos.training.ema import ModelEMA
from fcos.training.optimization import make_optimizer

_CLASSES = 80
_SIZE = 128  # pixels a side; short steps make the measured delay more precise
_SAVE_INTERVAL = 60.0  # seconds, as in params.yaml
_SAVES = 5


@dataclass(frozen=True)
class _Cost:
    """The cost of one save, in seconds."""

    wait: float  # for the call
    slowdown: float  # additional time of the steps while the state was being written


def _percentage() -> float:
    cost = _median_cost()
    return 100 * (cost.wait + cost.slowdown) / _SAVE_INTERVAL


def _wait() -> float:
    return 1000 * _median_cost().wait


def _median_cost() -> _Cost:
    """The median over several saves of a ResNet-50 detector's state: weights, their average, AdamW's two moments."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    detector = build(replace(PAPER, pretrained=False), _CLASSES).to(device).train()
    optimizer = make_optimizer(detector, name="adamw", lr=1e-6, weight_decay=0.0, momentum=0.9)
    parts = {"detector": detector, "optimizer": optimizer, "ema": ModelEMA(detector, 0.99)}
    step = _make_step(detector, optimizer, device)
    for _ in range(3):
        step()
    with _temporary_checkpoint() as checkpoint:
        costs = [_save(checkpoint, parts, step) for _ in range(_SAVES)]
    return _Cost(statistics.median(cost.wait for cost in costs), statistics.median(cost.slowdown for cost in costs))


def _save(checkpoint: Checkpoint, parts: dict[str, Any], step: Callable[[], object]) -> _Cost:
    # The usual time of a step is measured again for each save, so that other load on the machine affects both equally.
    usual = statistics.median(seconds_of(step) for _ in range(5))
    wait = seconds_of(lambda: checkpoint.save({name: part.state_dict() for name, part in parts.items()}))
    slowdown = 0.0
    while checkpoint.writing:
        slowdown += seconds_of(step) - usual
    checkpoint.check()
    return _Cost(wait, max(0.0, slowdown))


def _make_step(detector: Detector, optimizer: torch.optim.Optimizer, device: torch.device) -> Callable[[], object]:
    criterion = Criterion(PAPER, box_loss="giou")
    batch = torch.randn(2, 3, _SIZE, _SIZE, device=device)
    boxes = torch.tensor([[20.0, 30.0, 100.0, 90.0]])
    objects = make_targets([boxes, boxes], [torch.tensor([3]), torch.tensor([5])]).to(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        criterion(detector(batch), objects).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


@contextmanager
def _temporary_checkpoint() -> Iterator[Checkpoint]:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "state")
        try:
            yield checkpoint
        finally:
            checkpoint.clear()


LIMITS = [
    Limit("saving ResNet-50's state every minute: share of training time lost", 2.0, "%", _percentage),
    Limit("saving ResNet-50's state: time that training waits", 1000.0, "ms", _wait),
]
