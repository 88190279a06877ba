"""The training loop on real pictures: learns, repeats itself, stops at a loss that isn't finite."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from fcos.config import PAPER
from fcos.criterion import Criterion
from fcos.detector import Detector, batch_images, build
from fcos.postprocess import Postprocess
from fcos.structures import make_targets
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.ema import ModelEMA
from fcos.training.guards import NonFiniteLossError
from fcos.training.history import Row
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.trainer import Trainer

MODEL = replace(
    PAPER,
    backbone="tiny",
    pretrained=False,
    channels=32,
    levels=(3, 4, 5),
    tower_depth=1,
    frozen_stages=0,
    batch_norm="auto",
)
# Two crops of two photographs, halved: the pagoda's roof, the blossom.
PICTURES = [torch.from_numpy(photo[:256:2, 200:456:2].copy()).permute(2, 0, 1) for photo in load_sample_images().images]
BOXES = [
    torch.tensor([[30.0, 10.0, 100.0, 60.0], [5.0, 75.0, 30.0, 110.0]]),
    torch.tensor([[20.0, 15.0, 115.0, 120.0]]),
]
LABELS = [torch.tensor([0, 1]), torch.tensor([2])]
PIXELS, SIZES = batch_images(PICTURES)
BATCH = Batch(
    pixels=PIXELS,
    sizes=SIZES,
    targets=make_targets(BOXES, LABELS),
    names=["pagoda", "blossom"],
    objects=3,
    annotated=3,
)


class Log:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[Row] = []
        self.epochs: list[Row] = []

    def on_step(self, row: Row, images: int) -> None:
        assert images == 2
        self.steps.append(row)

    def on_validation(self, row: Row) -> None:
        self.epochs.append(row)


def trainer(
    *,
    epochs: int = 4,
    steps: int = 3,
    optimizer: str = "adamw",
    log: Log | None = None,
    lr: float = 1e-3,
) -> Trainer:
    torch.manual_seed(0)
    detector = build(MODEL, 3)
    made = make_optimizer(detector, name=optimizer, lr=lr, weight_decay=0.01, momentum=0.9)  # type: ignore[arg-type]

    def batches(epoch: int, first: int) -> Iterator[list[Batch]]:
        for index in range(first, steps):
            # Another brightness each time: a resume that repeats or skips a batch shows.
            dimmed = (PIXELS * (0.6 + 0.1 * ((epoch + index) % 5))).to(torch.uint8)
            yield [replace(BATCH, pixels=dimmed)]

    return Trainer(
        detector=detector,
        criterion=Criterion(MODEL, box_loss="giou"),
        optimizer=made,
        schedule=make_schedule(
            made, name="cosine", steps=epochs * steps, warmup=round(0.2 * epochs * steps), drops=[], gamma=0.1
        ),
        precision=Precision("float32", torch.device("cpu")),
        ema=ModelEMA(detector, 0.9),
        batches=batches,
        validate=lambda detector: {"mean": detector.head.box.weight.mean().item()},
        epochs=epochs,
        validate_every=2,
        clip_grad_norm=10.0,
        callback=log or Log(),
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in a.state_dict().items())


def test_one_batch_is_learned_by_heart() -> None:
    """Losses fall to near zero (centerness to near its floor), and detections are the very objects."""
    learning = trainer(epochs=1, steps=150, lr=3e-3)
    learning.batches = lambda _epoch, _first: [[BATCH]] * 150
    learning.ema = None
    history = learning.fit()
    first, last = history.steps[0], history.steps[-1]
    assert last["classification"] < 0.02 < first["classification"]
    assert last["box"] < 0.05 < first["box"]
    assert last["quality"] - last["quality_floor"] < 0.05
    found = detect(learning.detector)
    for boxes, labels, one in zip(BOXES, LABELS, found, strict=True):
        sure = one.scores > 0.5
        assert one.labels[sure].sort().values.tolist() == labels.tolist()
        order = one.labels[sure].argsort()
        torch.testing.assert_close(one.boxes[sure][order], boxes, atol=3.0, rtol=0)


def detect(detector: Detector) -> list:  # type: ignore[type-arg]
    detector.train()  # with two pictures, running statistics are no better
    with torch.no_grad():
        return Postprocess()(detector(detector.prepare(PICTURES)), [(128, 128)] * 2)


def test_same_seed_same_weights() -> None:
    a, b = trainer(), trainer()
    a.fit()
    b.fit()
    assert same(a.result, b.result)
    assert a.history == b.history


def test_validation_comes_every_so_many_epochs_and_at_the_end() -> None:
    log = Log()
    trainer(epochs=5, steps=1, log=log).fit()
    assert [row["epoch"] for row in log.epochs] == [2, 4, 5]


def test_a_loss_that_is_not_finite_names_the_images_and_leaves_the_weights() -> None:
    broken = trainer(epochs=1, steps=1)
    before = {name: tensor.clone() for name, tensor in broken.detector.named_parameters()}
    with torch.no_grad():
        broken.detector.head.quality.bias.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match=r"quality nan.*images pagoda, blossom$"):
        broken.fit()
    after = dict(broken.detector.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != "head.quality.bias")


def test_ema_by_hand() -> None:
    """After the first copy, decay is (1 + n)/(10 + n) while that is below the one asked for."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    average = ModelEMA(layer, 0.5)
    expected = 0.0
    for n, value in enumerate([8.0, 8.0, 8.0, 16.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0]):
        nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
        decay = 0.0 if n == 0 else min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert average.module.weight.item() == pytest.approx(expected)


def test_ema_takes_batch_norms_buffers_along() -> None:
    layer = nn.BatchNorm2d(1)
    average = ModelEMA(layer, 0.9)
    layer.running_mean.fill_(4.0)
    layer.num_batches_tracked.fill_(7)
    average.update_parameters(layer)
    average.update_parameters(layer)
    assert average.module.running_mean.item() == pytest.approx(4.0)
    assert average.module.num_batches_tracked.item() == 7
