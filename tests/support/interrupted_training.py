"""A very small training for tests that interrupt it, also as a process that a test can kill."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.structures import make_targets
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.checkpoints import Checkpoint
from fcos.training.ema import ModelEMA
from fcos.training.history import Row
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.trainer import Trainer
from tests.support.tiny_trainer import TINY

MODEL = replace(TINY, batch_norm="auto")
SIZE = 48
STEPS = 4  # in an epoch


@dataclass
class Log:
    """A callback that keeps all rows, and passes those of steps to a function."""

    function: Callable[[Row], object] = lambda _row: None
    steps: list[Row] = field(default_factory=list)
    epochs: list[Row] = field(default_factory=list)

    def on_step(self, row: Row, images: int) -> None:
        assert images == 2
        self.steps.append(row)
        self.function(row)

    def on_validation(self, row: Row) -> None:
        self.epochs.append(row)


def batches(epoch: int, first: int) -> Iterator[list[Batch]]:
    """Different images at each step, so that a repeated or skipped step changes the result."""
    for index in range(first, STEPS):
        generator = torch.Generator().manual_seed(epoch * STEPS + index)
        corner = torch.randint(0, SIZE // 2, (2, 1, 2), generator=generator).float()
        yield [
            Batch(
                pixels=torch.randint(0, 256, (2, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8),
                sizes=torch.full((2, 2), SIZE),
                targets=make_targets([torch.cat([at, at + 20], dim=1) for at in corner], [torch.tensor([0])] * 2),
                names=["a", "b"],
                objects=2,
                annotated=2,
            )
        ]


def score(detector: Detector) -> Row:
    """A score between 0 and 1 that depends on all weights."""
    return {"AP": sum(value.double().abs().sum().item() for value in detector.state_dict().values()) % 1}


def trainer(
    *,
    epochs: int = 4,
    optimizer: Any = "sgd",
    schedule: Any = "cosine",
    precision: Any = "float32",
    **changes: Any,
) -> Trainer:
    torch.manual_seed(0)
    detector = build(MODEL, 2)
    torch_optimizer = make_optimizer(detector, name=optimizer, lr=1e-3, weight_decay=0.01, momentum=0.9)
    steps = epochs * STEPS
    defaults = {
        "ema": ModelEMA(detector, 0.9),
        "batches": batches,
        "validate": score,
        "validate_every": 1,
        "clip_grad_norm": 10.0,
        "callback": Log(),
        "checkpoint_seconds": 0.0,
    }
    return Trainer(
        detector=detector,
        criterion=Criterion(MODEL, box_loss="giou"),
        optimizer=torch_optimizer,
        schedule=make_schedule(
            torch_optimizer, name=schedule, steps=steps, warmup=steps // 4, drops=[steps // 2], gamma=0.1
        ),
        precision=Precision(precision, torch.device("cpu")),
        epochs=epochs,
        **{**defaults, **changes},
    )


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """The results of a training: the last weights, their moving average, and the best weights."""
    assert trainer.best
    states = {
        "last": trainer.detector.state_dict(),
        "average": trainer.result.state_dict(),
        "best": trainer.best.weights,
    }
    return {
        f"{kind}.{name}": value.clone(memory_format=torch.contiguous_format)
        for kind, state in states.items()
        for name, value in state.items()
    }


def train(folder: Path, epochs: int) -> None:
    """Trains and writes the weights. The files `steps` and `validating` in the folder show the progress."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)

    def on_step(_row: Row) -> None:
        with (folder / "steps").open("a") as file:
            file.write(".")

    def validate(detector: Detector) -> Row:
        (folder / "validating").touch()
        scores = [score(detector) for _ in range(5)]  # takes longer, so that a test can interrupt it
        (folder / "validating").unlink()
        return scores[0]

    training = trainer(
        epochs=epochs,
        precision="bf16",
        callback=Log(on_step),
        validate=validate,
        checkpoint=Checkpoint(folder / "state"),
    )
    training.fit()
    save_file(weights(training), folder / "end.safetensors")
