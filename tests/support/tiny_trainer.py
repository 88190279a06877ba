"""A small training on generated images, for tests of training steps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fcos.config import PAPER, ModelConfig
from fcos.criterion import Criterion
from fcos.detector import build
from fcos.structures import make_targets
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.history import NullCallback
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.trainer import Trainer

TINY: ModelConfig = replace(
    PAPER,
    backbone="tiny",
    pretrained=False,
    channels=16,
    levels=(3, 4),
    tower_depth=1,
    frozen_stages=0,
    batch_norm="trained",
)


def batch(seed: int, images: int = 2, side: int = 64) -> Batch:
    """Noise with bright rectangles, i + 1 in image i, so that the parts of a step differ in their positives."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 100, (images, 3, side, side), generator=generator, dtype=torch.uint8)
    boxes = []
    for index, image in enumerate(pixels):
        corners = torch.randint(0, side // 2, (index + 1, 2), generator=generator)
        sides = torch.randint(12, side // 2, (index + 1, 2), generator=generator)
        boxes.append(torch.cat([corners, corners + sides], dim=1).float())
        for left, top, right, bottom in boxes[-1].int().tolist():
            image[:, top:bottom, left:right] += 120
    labels = [torch.arange(len(image_boxes)) % 2 for image_boxes in boxes]
    return Batch(
        pixels=pixels,
        sizes=torch.tensor([[side, side]] * images),
        targets=make_targets(boxes, labels),
        names=[f"{seed}-{index}" for index in range(images)],
        objects=sum(map(len, boxes)),
        annotated=sum(map(len, boxes)),
    )


def tiny_trainer(
    steps: Sequence[Sequence[Batch]],
    *,
    epochs: int = 1,
    model: ModelConfig = TINY,
    optimizer: str = "sgd",
    lr: float = 0.01,
    precision: str = "float32",
    **changes: Any,
) -> Trainer:
    """A trainer with the same steps in each epoch, and without validation or saved states unless `changes` has them."""
    torch.manual_seed(0)
    detector = build(model, 2)
    torch_optimizer = make_optimizer(detector, name=optimizer, lr=lr, weight_decay=0.01, momentum=0.9)  # type: ignore[arg-type]
    defaults: dict[str, Any] = {
        "ema": None,
        "batches": lambda _epoch, first: steps[first:],
        "validate": lambda _detector: {},
        "validate_every": 1,
        "clip_grad_norm": 0.0,
        "callback": NullCallback(),
    }
    return Trainer(
        detector=detector,
        criterion=Criterion(model, box_loss="giou"),
        optimizer=torch_optimizer,
        schedule=make_schedule(
            torch_optimizer, name="constant", steps=epochs * len(steps), warmup=0, drops=[], gamma=0.1
        ),
        precision=Precision(precision, torch.device("cpu")),  # type: ignore[arg-type]
        epochs=epochs,
        **defaults | changes,
    )
