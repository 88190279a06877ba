"""The training loop on photographs: overfits, is reproducible, stops at a loss that isn't finite; EMA by hand."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from fcos.criterion import Criterion
from fcos.detector import Detector, batch_images, build
from fcos.postprocess import Detections, Postprocess
from fcos.structures import make_targets
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.ema import ModelEMA
from fcos.training.guards import NonFiniteLossError
from fcos.training.history import Row
from fcos.training.optimization import make_optimizer, make_plateau, make_schedule
from fcos.training.trainer import Trainer
from tests.support.tiny_detector import CONFIG

MODEL = replace(CONFIG, channels=32)
# Crops of two photographs at half their size: the roof of a pagoda, a blossom.
IMAGES = [torch.from_numpy(photo[:256:2, 200:456:2].copy()).permute(2, 0, 1) for photo in load_sample_images().images]
BOXES = [
    torch.tensor([[30.0, 10.0, 100.0, 60.0], [5.0, 75.0, 30.0, 110.0]]),
    torch.tensor([[20.0, 15.0, 115.0, 120.0]]),
]
LABELS = [torch.tensor([0, 1]), torch.tensor([2])]
PIXELS, SIZES = batch_images(IMAGES)
BATCH = Batch(
    pixels=PIXELS,
    sizes=SIZES,
    targets=make_targets(BOXES, LABELS),
    names=["pagoda", "blossom"],
    objects=3,
    annotated=3,
)


class Log:
    """A callback that keeps all rows."""

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
    log: Log | None = None,
    lr: float = 1e-3,
) -> Trainer:
    torch.manual_seed(0)
    detector = build(MODEL, 3)
    adam = make_optimizer(detector, name="adamw", lr=lr, weight_decay=0.01, momentum=0.9)

    def batches(epoch: int, first: int) -> Iterator[list[Batch]]:
        for index in range(first, steps):
            # Steps have different brightness.
            dimmed = (PIXELS * (0.6 + 0.1 * ((epoch + index) % 5))).to(torch.uint8)
            yield [replace(BATCH, pixels=dimmed)]

    return Trainer(
        detector=detector,
        criterion=Criterion(MODEL, box_loss="giou"),
        optimizer=adam,
        schedule=make_schedule(
            adam, name="cosine", steps=epochs * steps, warmup=round(0.2 * epochs * steps), drops=[], gamma=0.1
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


def have_equal_weights(a: nn.Module, b: nn.Module) -> bool:
    expected = b.state_dict()
    return all(torch.equal(tensor, expected[name]) for name, tensor in a.state_dict().items())


def test_training_overfits_a_batch() -> None:
    """Losses fall to nearly zero (centerness to nearly its floor), and the detections are the objects."""
    overfit = trainer(epochs=1, steps=150, lr=3e-3)
    overfit.batches = lambda _epoch, _first: [[BATCH]] * 150
    overfit.ema = None
    history = overfit.fit()
    first, last = history.steps[0], history.steps[-1]
    assert last["classification"] < 0.02 < first["classification"]
    assert last["box"] < 0.05 < first["box"]
    assert last["quality"] - last["quality_floor"] < 0.05
    for boxes, labels, detections in zip(BOXES, LABELS, detect(overfit.detector), strict=True):
        confident = detections[detections.scores > 0.5]
        assert confident.labels.sort().values.tolist() == labels.tolist()
        torch.testing.assert_close(confident.boxes[confident.labels.argsort()], boxes, atol=3.0, rtol=0)


def detect(detector: Detector) -> list[Detections]:
    detector.train()  # running statistics of two images are no better than those of the batch
    with torch.no_grad():
        return Postprocess()(detector(detector.prepare(IMAGES)), [(128, 128)] * 2)


def test_same_seed_same_weights() -> None:
    a, b = trainer(), trainer()
    a.fit()
    b.fit()
    assert have_equal_weights(a.result, b.result)
    assert a.history == b.history


def test_validation_after_every_second_epoch_and_at_the_end() -> None:
    log = Log()
    trainer(epochs=5, steps=1, log=log).fit()
    assert [row["epoch"] for row in log.epochs] == [2, 4, 5]


def test_a_plateau_lowers_the_learning_rate_of_the_next_epochs() -> None:
    log = Log()
    training = trainer(epochs=4, steps=1, log=log)
    training.optimizer.param_groups[0]["lr"] = 1e-3  # not that of the warm-up
    training.schedule = make_schedule(training.optimizer, name="plateau", steps=4, warmup=0, drops=[], gamma=1.0)
    training.plateau = make_plateau(training.optimizer, patience=1, gamma=0.5, warmup=0)
    training.validate, training.validate_every = lambda _: {"AP": 0.5}, 1
    training.fit()
    assert [row["learning_rate"] for row in log.steps] == [1e-3, 1e-3, 5e-4, 2.5e-4]


def test_a_loss_that_is_not_finite_is_an_error_with_the_images_and_changes_no_weights() -> None:
    broken = trainer(epochs=1, steps=1)
    before = {name: tensor.clone() for name, tensor in broken.detector.named_parameters()}
    with torch.no_grad():
        broken.detector.head.quality.bias.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match=r"quality nan.*images pagoda, blossom$"):
        broken.fit()
    after = dict(broken.detector.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in before.items() if name != "head.quality.bias")


def test_ema_by_hand() -> None:
    """After the first copy, the decay is (1 + n)/(10 + n), at most the given decay."""
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


def test_ema_copies_the_buffers_of_batch_norm() -> None:
    layer = nn.BatchNorm2d(1)
    average = ModelEMA(layer, 0.9)
    layer.running_mean.fill_(4.0)
    layer.num_batches_tracked.fill_(7)
    average.update_parameters(layer)
    average.update_parameters(layer)
    assert average.module.running_mean.item() == pytest.approx(4.0)
    assert average.module.num_batches_tracked.item() == 7
