"""Errors that stop a training that diverges or learns nothing, in all processes at the same step."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from fcos.config import PAPER, LossWeights
from fcos.criterion import Criterion
from fcos.detector import build
from fcos.structures import make_targets
from fcos.training.amp import Precision
from fcos.training.batch import Batch
from fcos.training.checkpoints import Checkpoint
from fcos.training.distributed import SINGLE_PROCESS, Processes, SingleProcess
from fcos.training.guards import NonFiniteLossError, NothingToLearnError
from fcos.training.history import NullCallback, Row
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.trainer import Trainer

MODEL = replace(
    PAPER,
    backbone="tiny",
    pretrained=False,
    frozen_stages=0,
    channels=8,
    levels=(3, 4),
    tower_depth=1,
)
OBJECT = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
SMALL_OBJECT = torch.tensor([[8.0, 8.0, 28.0, 28.0]])  # in a small image, since fp16 is slow on a CPU
# If fp16 skips the first step, torch takes this for a wrong order of calls.
SKIPPED_FIRST = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
TOO_SMALL = torch.tensor([[0.5, 0.5, 1.5, 1.5]])  # no location of stride 8 or 16 lies inside


def batch(boxes: Tensor = OBJECT, *, annotated: int = 1, name: str = "square", side: int = 64) -> Batch:
    image = torch.zeros(3, side, side, dtype=torch.uint8)
    image[:, 8:40, 8:40] = 200
    return Batch(
        pixels=image[None],
        sizes=torch.tensor([[side, side]]),
        targets=make_targets([boxes], [torch.zeros(len(boxes), dtype=torch.int64)]),
        names=[name],
        objects=len(boxes),
        annotated=annotated,
    )


class TwoEqualProcesses(SingleProcess):
    """Process 0 of two with equal batches; the images of process 1 have other names."""

    world_size = 2

    def all_gather_object(self, value: Any) -> Sequence[Any]:
        return [value, ["theirs"]]


def trainer(
    batches: Sequence[Batch],
    *,
    epochs: int = 1,
    precision: str = "float32",
    batch_norm: Literal["trained", "frozen"] = "trained",
    weights: float = 1.0,
    processes: Processes = SINGLE_PROCESS,
    log_every: int = 1,
    checkpoint: Checkpoint | None = None,
) -> Trainer:
    torch.manual_seed(0)
    weighted = LossWeights(classification=weights, box=weights, quality=weights)
    model = replace(MODEL, loss_weights=weighted, batch_norm=batch_norm)
    detector = build(model, 1)
    optimizer = make_optimizer(detector, name="sgd", lr=1e-3, weight_decay=0.0, momentum=0.9)
    return Trainer(
        detector=detector,
        criterion=Criterion(model, box_loss="giou"),
        optimizer=optimizer,
        schedule=make_schedule(optimizer, name="constant", steps=100, warmup=0, drops=[], gamma=0.1),
        precision=Precision(precision, torch.device("cpu")),  # type: ignore[arg-type]
        processes=processes,
        ema=None,
        batches=lambda _epoch, first: [[batch] for batch in batches[first:]],
        validate=lambda _: {},
        epochs=epochs,
        validate_every=1,
        clip_grad_norm=10.0,
        callback=NullCallback(),
        log_every=log_every,
        checkpoint=checkpoint,
        checkpoint_seconds=0.0,
    )


# Not finite


@pytest.mark.parametrize(
    ("part", "loss"),
    [
        ("backbone", "classification nan"),
        ("neck", "classification nan"),
        ("head.box", "box nan"),
        ("head.quality", "quality nan"),
        ("head.class_logits", "classification nan"),
    ],
)
def test_a_nan_weight_is_reported_by_the_losses_it_reaches(part: str, loss: str) -> None:
    broken = trainer([batch()])
    with torch.no_grad():
        next(p for name, p in broken.detector.named_parameters() if name.startswith(part)).fill_(torch.nan)
    message = rf"^step 1: the loss is not finite: total nan.*{loss}.*; images square$"
    with pytest.raises(NonFiniteLossError, match=message) as error:
        broken.fit()
    assert "\n" not in str(error.value)
    assert (error.value.row["step"], error.value.images) == (1, ["square"])
    assert (error.value.loss_scaling, error.value.skipped_steps, error.value.saved_state) == (False, 0, "")


def test_an_infinite_learning_rate_stops_before_it_is_used() -> None:
    broken = trainer([batch()])
    before = {name: value.clone() for name, value in broken.detector.state_dict().items() if "running" not in name}
    broken.optimizer.param_groups[0]["lr"] = math.inf
    with pytest.raises(NonFiniteLossError, match="learning_rate inf"):
        broken.fit()
    assert all(torch.equal(broken.detector.state_dict()[name], p) for name, p in before.items() if "num" not in name)


def test_the_error_names_the_last_saved_state(tmp_path: Path) -> None:
    broken = trainer([batch()] * 4, checkpoint=Checkpoint(tmp_path / "state"))

    class Breaking(NullCallback):
        def on_step(self, row: Row, images: int) -> None:  # noqa: ARG002
            if row["step"] == 2:  # after it, the state of step 2 is saved, unless step 1's is still being written
                nn.init.constant_(broken.detector.head.box.weight, torch.nan)

    broken.callback = Breaking()
    with pytest.raises(NonFiniteLossError, match=rf"; the state of step [12] is in {tmp_path}/state$"):
        broken.fit()


def test_the_error_names_the_images_of_all_processes() -> None:
    broken = trainer([batch()], processes=TwoEqualProcesses())
    with torch.no_grad():
        broken.detector.head.box.weight.fill_(torch.nan)
    with pytest.raises(NonFiniteLossError, match=r"images square, theirs$"):
        broken.fit()


@SKIPPED_FIRST
def test_fp16_may_skip_steps_until_its_loss_scale_fits() -> None:
    """A loss scale that is far too large halves with each skipped step."""
    training = trainer([batch(SMALL_OBJECT, side=32)] * 18, precision="fp16", batch_norm="frozen")
    training.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26)
    norms = [row["gradient_norm"] for row in training.fit().steps]
    skipped = [not math.isfinite(norm) for norm in norms]
    assert any(skipped)
    assert skipped == sorted(skipped, reverse=True)
    assert not skipped[-1]


@SKIPPED_FIRST
def test_fp16_is_stopped_after_thirty_skipped_steps() -> None:
    """Losses so large that no loss scale helps."""
    broken = trainer([batch(SMALL_OBJECT, side=32)] * 40, precision="fp16", batch_norm="frozen", weights=1e33)
    with pytest.raises(
        NonFiniteLossError, match=r"^step 30: the gradients of 30 consecutive steps overflowed"
    ) as error:
        broken.fit()
    assert (error.value.loss_scaling, error.value.skipped_steps) == (True, 30)
    assert len(broken.history.steps) == 29


# Nothing to learn


@pytest.mark.parametrize(("steps", "log_every"), [(1, 1), (3, 20), (19, 4)])
def test_a_short_training_without_objects_is_stopped_after_its_first_epoch(steps: int, log_every: int) -> None:
    training = trainer([batch(OBJECT[:0], annotated=2)] * steps, epochs=2, log_every=log_every)
    message = rf"^augmentation removed all of the {2 * steps} objects in the first {steps} steps$"
    with pytest.raises(NothingToLearnError, match=message) as error:
        training.fit()
    assert (error.value.reason, error.value.objects, error.value.steps) == ("no_objects", 2 * steps, steps)
    assert training.epoch == 0


def test_a_long_training_without_positives_is_stopped_after_twenty_steps() -> None:
    training = trainer([batch(TOO_SMALL)] * 30)
    message = r"^no location is assigned to any of the 20 objects in the first 20 steps$"
    with pytest.raises(NothingToLearnError, match=message) as error:
        training.fit()
    assert (error.value.reason, error.value.objects, error.value.steps) == ("no_positives", 20, 20)
    assert len(training.history.steps) == 20


def test_the_twentieth_step_is_checked_when_several_are_fetched_together() -> None:
    training = trainer([batch(TOO_SMALL)] * 40, log_every=15)
    with pytest.raises(NothingToLearnError, match="first 20 steps"):
        training.fit()
    assert len(training.history.steps) == 30


def test_one_object_is_enough() -> None:
    history = trainer([batch(TOO_SMALL)] * 19 + [batch()]).fit()
    assert [row["positives"] > 0 for row in history.steps] == [False] * 19 + [True]


def test_images_without_annotations_are_no_error() -> None:
    """They may be the first; whether the data has objects at all is checked when it is read."""
    assert len(trainer([batch(OBJECT[:0], annotated=0)] * 25).fit().steps) == 25


def test_counts_are_summed_over_processes() -> None:
    (single,) = trainer([batch(annotated=3)]).fit().steps
    (both,) = trainer([batch(annotated=3)], processes=TwoEqualProcesses()).fit().steps
    assert (single["objects"], single["annotated"]) == (1, 3)
    assert (both["objects"], both["annotated"], both["positives"]) == (2, 6, 2 * single["positives"])
    assert both["total"] == single["total"]
