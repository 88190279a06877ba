"""What keeping a training's state costs the training: the copy it waits for, and the writing meanwhile."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Limit
from fcos.config import PAPER
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.structures import make_targets
from fcos.training.checkpoints import Checkpoint
from fcos.training.ema import ModelEMA
from fcos.training.optimization import make_optimizer

_CLASSES = 80
_SIZE = 128  # pixels a side: short steps tell more exactly how long training was held up
_EVERY = 60.0  # seconds between two saves, as in params.yaml
_SAVES = 5


@dataclass(frozen=True)
class _Cost:
    """Of one save, in seconds."""

    waited: float  # for the call
    slowed: float  # what the steps took longer while the state was being written


def _share() -> float:
    cost = _measured()
    return 100 * (cost.waited + cost.slowed) / _EVERY


def _waited() -> float:
    return 1000 * _measured().waited


def _measured() -> _Cost:
    """The median over several saves of a ResNet-50 detector's state: weights, their average, AdamW's two moments."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    detector = build(replace(PAPER, pretrained=False), _CLASSES).to(device).train()
    optimizer = make_optimizer(detector, name="adamw", lr=1e-6, weight_decay=0.0, momentum=0.9)
    parts = {"detector": detector, "optimizer": optimizer, "ema": ModelEMA(detector, 0.99)}
    step = _steps(detector, optimizer, device)
    for _ in range(3):
        step()
    with _checkpoint() as checkpoint:
        costs = [_save(checkpoint, parts, step) for _ in range(_SAVES)]
    return _Cost(statistics.median(c.waited for c in costs), statistics.median(c.slowed for c in costs))


def _save(checkpoint: Checkpoint, parts: dict[str, Any], step: Callable[[], object]) -> _Cost:
    # Measured anew each time, so that whatever else the machine does meets both alike.
    usual = statistics.median(_seconds(step) for _ in range(5))
    waited = _seconds(lambda: checkpoint.save({name: part.state_dict() for name, part in parts.items()}))
    slowed = 0.0
    while checkpoint.writing:
        slowed += _seconds(step) - usual
    checkpoint.check()
    return _Cost(waited, max(0.0, slowed))


def _steps(detector: Detector, optimizer: torch.optim.Optimizer, device: torch.device) -> Callable[[], object]:
    criterion = Criterion(PAPER, box_loss="giou")
    batch = torch.randn(2, 3, _SIZE, _SIZE, device=device)
    boxes = torch.tensor([[20.0, 30.0, 100.0, 90.0]])
    objects = make_targets([boxes, boxes], [torch.tensor([3]), torch.tensor([5])]).to(device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        criterion(detector(batch), objects).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _seconds(call: Callable[[], object]) -> float:
    """Until a GPU has done its part."""
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@contextmanager
def _checkpoint() -> Iterator[Checkpoint]:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "state")
        try:
            yield checkpoint
        finally:
            checkpoint.clear()


LIMITS = [
    Limit("saving ResNet-50's state every minute: share of the time that training is held up", 2.0, "%", _share),
    Limit("saving ResNet-50's state: what training waits for", 1000.0, "ms", _waited),
]
