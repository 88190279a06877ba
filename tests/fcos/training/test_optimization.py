"""Optimizers and schedules by hand; what a step does with parts, clipping, average and a frozen backbone."""

import io
from collections.abc import Sequence
from dataclasses import replace
from math import cos, inf, pi
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fcos.detector import build
from fcos.training.checkpoints import Checkpoint
from fcos.training.ema import ModelEMA
from fcos.training.optimization import make_optimizer, make_schedule
from fcos.training.trainer import TrainingInterrupted
from tests.support.device_sync import NoSynchronization
from tests.support.tiny_trainer import TINY, batch, tiny_trainer


def groups(model: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the parameters with weight decay, and of those without."""
    optimizer = make_optimizer(model, name="adamw", lr=1, weight_decay=0.5, momentum=0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, free = ({names[parameter] for parameter in group["params"]} for group in optimizer.param_groups)
    assert len(decayed) + len(free) == sum(parameter.requires_grad for parameter in names)
    return decayed, free


def test_no_decay_on_norms_biases_scales_and_fusions() -> None:
    decayed, free = groups(build(replace(TINY, neck="bifpn", neck_norm="batch", levels=(3, 4, 5, 6)), 3))
    assert "head.scales" in free
    assert "head.class_logits.bias" in free
    assert "neck.layers.0.top_down.0.weights" in free
    assert {"head.class_logits.weight", "neck.layers.0.top_down.0.depthwise.weight"} <= decayed
    assert not [name for name in decayed if not name.endswith(".weight")]


def test_no_weight_decay_on_vectors() -> None:
    detector = build(TINY, 3)
    decayed, free = make_optimizer(detector, name="sgd", lr=1, weight_decay=0.5, momentum=0.9).param_groups
    assert decayed["weight_decay"] == 0.5
    assert all(parameter.ndim == 4 for parameter in decayed["params"])
    assert free["weight_decay"] == 0
    assert any(parameter is detector.head.scales for parameter in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(detector.parameters()))


@pytest.mark.parametrize(
    ("name", "kept_free", "kept_decayed"),
    [
        ("convnext_atto", "gamma", "mlp.fc1.weight"),
        ("swin_tiny_patch4_window7_224", "relative_position_bias_table", "attn.qkv.weight"),
    ],
)
def test_no_decay_on_timms_scales_and_tables(name: str, kept_free: str, kept_decayed: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        decayed, free = groups(timm.create_model(name, features_only=True))
    assert any(path.endswith(kept_free) for path in free)
    assert not any(path.endswith(kept_free) for path in decayed)
    assert any(path.endswith(kept_decayed) for path in decayed)


def test_frozen_parameters_stay_out() -> None:
    detector = build(TINY, 3)
    detector.backbone.requires_grad_(False)
    made = make_optimizer(detector, name="sgd", lr=1, weight_decay=0.5, momentum=0)
    own = {id(parameter) for group in made.param_groups for parameter in group["params"]}
    assert not own & {id(parameter) for parameter in detector.backbone.parameters()}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_one_kernel_says_what_the_plain_formulas_say(name: str) -> None:
    def moved(fused: bool) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(40, 30)
        made = make_optimizer(layer, name=name, lr=0.1, weight_decay=0.1, momentum=0.9)  # type: ignore[arg-type]
        assert all(group["fused"] for group in made.param_groups)
        for group in made.param_groups:
            group["fused"] = fused
        for _ in range(3):
            made.zero_grad()
            layer(torch.ones(2, 40)).pow(2).sum().backward()
            made.step()
        return layer.weight.detach()

    torch.testing.assert_close(moved(True), moved(False))


def test_a_meta_detector_has_an_optimizer_too() -> None:
    """What `fcos summary` counts."""
    assert make_optimizer(build(TINY, 3).to("meta"), name="adam", lr=1, weight_decay=0, momentum=0)


def made_schedule(name: str, steps: int, warmup: int, drops: Sequence[int]) -> tuple[Optimizer, LRScheduler]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    return optimizer, make_schedule(optimizer, name=name, steps=steps, warmup=warmup, drops=drops, gamma=0.1)  # type: ignore[arg-type]


def rates(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def rise(step: int, warmup: int) -> float:
    return 2.0 * (0.001 + 0.999 * step / warmup)


def fall(step: int, steps: int) -> float:
    return 2.0 * (1 + cos(pi * step / steps)) / 2


CURVES = [
    ("cosine", 4, 0, [], [fall(i, 4) for i in range(4)]),
    ("cosine", 8, 3, [], [rise(0, 3), rise(1, 3), rise(2, 3), *(fall(i, 5) for i in range(5))]),
    ("cosine", 4, 4, [], [rise(0, 3), rise(1, 3), rise(2, 3), 2.0]),
    ("cosine", 1, 0, [], [2.0]),
    ("cosine", 1, 1, [], [2.0]),
    ("constant", 4, 2, [], [0.002, rise(1, 2), 2.0, 2.0]),
    ("constant", 3, 0, [9], [2.0, 2.0, 2.0]),
    ("multi_step", 7, 2, [4, 6], [0.002, rise(1, 2), 2.0, 2.0, 0.2, 0.2, 0.02]),
    ("multi_step", 4, 0, [0, 2], [0.2, 0.2, 0.02, 0.02]),
    ("multi_step", 6, 3, [1, 3, 5], [rise(0, 3), rise(1, 3), rise(2, 3), 0.02, 0.02, 0.002]),
    ("multi_step", 1, 1, [1], [2.0]),
    ("step", 7, 0, [2], [2.0, 2.0, 0.2, 0.2, 0.02, 0.02, 0.002]),
    ("step", 5, 1, [3], [0.002, 2.0, 2.0, 0.2, 0.2]),
    ("step", 3, 0, [0], [2.0, 0.2, 0.02]),
    # From 1/25 of the peak along a cosine to the peak, then to 1/10,000 of the beginning.
    ("one_cycle", 5, 2, [], [0.08, 1.04, 2.0, 8e-6 + 0.75 * (2 - 8e-6), 8e-6 + 0.25 * (2 - 8e-6)]),
    ("one_cycle", 3, 3, [], [0.08, 1.04, 2.0]),
    ("one_cycle", 4, 0, [], [fall(i, 4) for i in range(4)]),
    ("one_cycle", 1, 0, [], [2.0]),
    ("one_cycle", 1, 5, [], [2.0]),
]


@pytest.mark.parametrize(("name", "steps", "warmup", "drops", "expected"), CURVES)
def test_schedules_by_hand(name: str, steps: int, warmup: int, drops: list[int], expected: list[float]) -> None:
    assert rates(*made_schedule(name, steps, warmup, drops), steps) == pytest.approx(expected, rel=1e-6)


def test_cosine_rises_then_falls_to_nearly_zero() -> None:
    seen = rates(*made_schedule("cosine", 100, 10, []), 100)
    assert seen[0] == pytest.approx(2e-3)
    assert seen[10] == pytest.approx(2.0)
    assert seen[55] == pytest.approx(1.0)
    assert 0 < seen[-1] < 2e-3
    assert sorted(seen[:11]) == seen[:11]


def test_steps_fall_to_a_tenth_where_they_should() -> None:
    seen = rates(*made_schedule("multi_step", 90, 0, [60, 80]), 90)
    assert seen[59] == pytest.approx(2.0)
    assert seen[60] == pytest.approx(0.2)
    assert seen[80] == pytest.approx(0.02)


def test_steps_after_a_warm_up_keep_their_place() -> None:
    seen = rates(*made_schedule("multi_step", 90, 9, [60]), 90)
    assert seen[9] == pytest.approx(2.0)
    assert seen[59] == pytest.approx(2.0)
    assert seen[60] == pytest.approx(0.2)


@pytest.mark.parametrize("warmup", range(1, 40))
def test_one_cycle_peaks_once_the_warm_up_is_over(warmup: int) -> None:
    seen = rates(*made_schedule("one_cycle", 40, warmup, []), 40)
    assert seen.index(max(seen)) == warmup
    assert max(seen) == pytest.approx(2.0)


@pytest.mark.parametrize(("name", "steps", "warmup", "drops", "expected"), CURVES)
@pytest.mark.parametrize("done", [1, 2, 4])
def test_a_schedule_goes_on_where_it_stopped(
    name: str, steps: int, warmup: int, drops: list[int], expected: list[float], done: int
) -> None:
    first = made_schedule(name, steps, warmup, drops)
    rates(*first, min(done, steps))
    saved = io.BytesIO()
    torch.save([part.state_dict() for part in first], saved)
    saved.seek(0)
    second = made_schedule(name, steps, warmup, drops)
    for part, state in zip(second, torch.load(saved, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert rates(*second, steps - done) == pytest.approx(expected[done:], rel=1e-6)


PARTS = [batch(seed) for seed in range(4)]


def gradients(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in trainer.detector.named_parameters() if p.grad is not None}


def test_parts_of_a_step_give_the_mean_of_their_gradients() -> None:
    """Each normalized by its own positives; one step of optimizer, schedule and average for all of them."""
    trainer = tiny_trainer([PARTS], ema=None)
    plain = tiny_trainer([PARTS])
    plain.detector.train()
    for part in PARTS:
        outputs = plain.detector(plain.detector.normalize_batch(part.pixels, part.sizes))
        (plain.criterion(outputs, part.targets).total / 4).backward()
    trainer.ema = ModelEMA(trainer.detector, 0.9)
    history = trainer.fit()
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(trainer)[name], gradient)
    assert len(history.steps) == trainer.step == trainer.ema.updates == trainer.schedule.last_epoch == 1
    assert history.steps[0]["objects"] == 12


def test_gradients_are_clipped_together() -> None:
    trainer = tiny_trainer([PARTS[:1]], clip_grad_norm=0.5)
    norm = trainer.fit().steps[0]["gradient_norm"]
    clipped = torch.stack([gradient.norm() for gradient in gradients(trainer).values()]).norm()
    assert norm > 0.5
    assert clipped.item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_frozen_epochs_leave_the_backbone_alone_and_then_teach_it(tmp_path: Path, optimizer: str) -> None:
    steps = [[part] for part in PARTS[:2]]
    states: list[dict[str, torch.Tensor]] = []

    def note(_: nn.Module) -> dict[str, float]:
        states.append({name: value.clone() for name, value in trainer.detector.state_dict().items()})
        return {}

    joined: list[bool] = []

    def compile_model(network: nn.Module) -> nn.Module:
        joined.append(next(network.parameters()).requires_grad)
        return network

    trainer = tiny_trainer(
        steps, epochs=3, backbone_frozen_epochs=2, validate=note, compile_model=compile_model, optimizer=optimizer
    )
    before = {name: value.clone() for name, value in trainer.detector.state_dict().items()}
    trainer.fit()
    own = [name for name in before if name.startswith("backbone.")]
    assert any("running_mean" in name for name in own)
    for state in states[:2]:
        assert all(torch.equal(state[name], before[name]) for name in own)
        assert not torch.equal(state["head.box.weight"], before["head.box.weight"])
    assert not any(torch.equal(states[2][name], before[name]) for name in own if "running" in name or "weight" in name)
    assert joined == [False, True]

    for stop in (1, 3):  # within the frozen epochs, and after them
        interrupted = iter([False] * stop + [True] * 9)
        folder = Checkpoint(tmp_path / str(stop))
        options: Any = {"epochs": 3, "backbone_frozen_epochs": 2, "optimizer": optimizer, "checkpoint": folder}
        with pytest.raises(TrainingInterrupted):
            tiny_trainer(steps, **options, interrupted=lambda it=interrupted: next(it)).fit()
        resumed = tiny_trainer(steps, **options)
        resumed.fit()
        assert all(torch.equal(value, states[2][name]) for name, value in resumed.detector.state_dict().items())


def test_the_average_waits_for_nothing_and_forgets_nothing() -> None:
    detector = build(TINY, 2)
    average = ModelEMA(detector, 0.9)
    with NoSynchronization():
        for _ in range(3):
            average.update_parameters(detector)
    again = ModelEMA(build(TINY, 2), 0.9)
    again.load_state_dict(average.state_dict())
    for kept in (average, again):
        with torch.no_grad():
            detector.head.scales.fill_(3.0)
        kept.update_parameters(detector)
    assert again.updates == average.updates == 4
    # The fourth update's decay is 4/13, of 1 towards 3.
    assert again.module.head.scales.tolist() == pytest.approx([1 * 4 / 13 + 3 * 9 / 13] * 2)
    assert torch.equal(again.module.head.scales, average.module.head.scales)


def test_a_gradient_that_is_not_finite_is_no_small_one() -> None:
    trainer = tiny_trainer([PARTS[:1]])
    trainer.detector.head.scales.register_hook(lambda gradient: gradient * inf)
    with pytest.raises(RuntimeError, match="gradient_norm"):
        trainer.fit()
