"""Optimizers, schedules worked out by hand, and training steps: parts, clipping, EMA, frozen backbone."""

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

from fcos.detector import Detector, build
from fcos.training.checkpoints import Checkpoint
from fcos.training.ema import ModelEMA
from fcos.training.optimization import make_optimizer, make_plateau, make_schedule
from fcos.training.trainer import TrainingInterrupted
from tests.support.device_sync import NoSynchronization
from tests.support.tiny_trainer import TINY, batch, tiny_trainer


def groups(model: nn.Module) -> tuple[set[str], set[str]]:
    """Names of the parameters with weight decay, and of those without."""
    optimizer = make_optimizer(model, name="adamw", lr=1, weight_decay=0.5, momentum=0)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, not_decayed = ({names[parameter] for parameter in group["params"]} for group in optimizer.param_groups)
    assert len(decayed) + len(not_decayed) == sum(parameter.requires_grad for parameter in names)
    return decayed, not_decayed


def test_no_decay_on_norms_biases_scales_and_fusions() -> None:
    decayed, not_decayed = groups(build(replace(TINY, neck="bifpn", neck_norm="batch", levels=(3, 4, 5, 6)), 3))
    assert "head.scales" in not_decayed
    assert "head.class_logits.bias" in not_decayed
    assert "neck.layers.0.top_down.0.weights" in not_decayed
    assert {"head.class_logits.weight", "neck.layers.0.top_down.0.depthwise.weight"} <= decayed
    assert not [name for name in decayed if not name.endswith(".weight")]


def test_no_weight_decay_on_vectors() -> None:
    detector = build(TINY, 3)
    decayed, not_decayed = make_optimizer(detector, name="sgd", lr=1, weight_decay=0.5, momentum=0.9).param_groups
    assert decayed["weight_decay"] == 0.5
    assert all(parameter.ndim == 4 for parameter in decayed["params"])
    assert not_decayed["weight_decay"] == 0
    assert any(parameter is detector.head.scales for parameter in not_decayed["params"])
    assert len(decayed["params"]) + len(not_decayed["params"]) == len(list(detector.parameters()))


@pytest.mark.parametrize(
    ("name", "not_decayed_name", "decayed_name"),
    [
        ("convnext_atto", "gamma", "mlp.fc1.weight"),
        ("swin_tiny_patch4_window7_224", "relative_position_bias_table", "attn.qkv.weight"),
    ],
)
def test_no_decay_on_timms_scales_and_tables(name: str, not_decayed_name: str, decayed_name: str) -> None:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        decayed, not_decayed = groups(timm.create_model(name, features_only=True))
    assert any(path.endswith(not_decayed_name) for path in not_decayed)
    assert not any(path.endswith(not_decayed_name) for path in decayed)
    assert any(path.endswith(decayed_name) for path in decayed)


def test_frozen_parameters_are_not_optimized() -> None:
    detector = build(TINY, 3)
    detector.backbone.requires_grad_(False)
    optimizer = make_optimizer(detector, name="sgd", lr=1, weight_decay=0.5, momentum=0)
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert not optimized & {id(parameter) for parameter in detector.backbone.parameters()}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_the_backbone_has_its_own_learning_rate(name: str) -> None:
    """A step changes the backbone a tenth as much, everything else as much as before; the schedule keeps the ratio."""

    def change(factor: float) -> tuple[Detector, dict[str, torch.Tensor], Optimizer]:
        torch.manual_seed(0)
        detector = build(TINY, 3)
        before = {path: parameter.detach().clone() for path, parameter in detector.named_parameters()}
        optimizer = make_optimizer(
            detector,
            name=name,  # type: ignore[arg-type]
            lr=0.01,
            weight_decay=0.5,
            momentum=0.9,
            backbone_lr_factor=factor,
        )
        for parameter in detector.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        return detector, {path: p.detach() - before[path] for path, p in detector.named_parameters()}, optimizer

    detector, same, plain = change(1.0)
    _, changes, optimizer = change(0.1)
    for path, difference in changes.items():
        expected = same[path] * (0.1 if path.startswith("backbone.") else 1)
        torch.testing.assert_close(difference, expected, msg=path, rtol=1e-3, atol=1e-6)
    optimized = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(optimized) == len(set(optimized)) == len(list(detector.parameters()))
    assert len(plain.param_groups) == (3 if name == "muon" else 2)  # as in states saved before there was a factor
    for schedule in ("cosine", "one_cycle", "multi_step", "constant"):
        _, _, optimizer = change(0.1)
        scheduler = make_schedule(optimizer, name=schedule, steps=20, warmup=4, drops=[10], gamma=0.1)  # type: ignore[arg-type]
        for _ in range(20):
            assert optimizer.param_groups[-1]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"] / 10)
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fused_kernels_equal_the_separate_operations(name: str) -> None:
    def train(fused: bool) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(40, 30)
        optimizer = make_optimizer(layer, name=name, lr=0.1, weight_decay=0.1, momentum=0.9)  # type: ignore[arg-type]
        assert all(group["fused"] for group in optimizer.param_groups)
        for group in optimizer.param_groups:
            group["fused"] = fused
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.ones(2, 40)).pow(2).sum().backward()
            optimizer.step()
        return layer.weight.detach()

    torch.testing.assert_close(train(True), train(False))


def test_an_optimizer_on_the_meta_device() -> None:
    """`fcos summary` counts its state."""
    for name in ("adam", "muon"):
        assert make_optimizer(build(TINY, 3).to("meta"), name=name, lr=1, weight_decay=0, momentum=0)  # type: ignore[arg-type]


def optimizer_and_schedule(name: str, steps: int, warmup: int, drops: Sequence[int]) -> tuple[Optimizer, LRScheduler]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    return optimizer, make_schedule(optimizer, name=name, steps=steps, warmup=warmup, drops=drops, gamma=0.1)  # type: ignore[arg-type]


def rates(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    result = []
    for _ in range(steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return result


def warmup_lr(step: int, warmup: int) -> float:
    return 2.0 * (0.001 + 0.999 * step / warmup)


def cosine_lr(step: int, steps: int) -> float:
    return 2.0 * (1 + cos(pi * step / steps)) / 2


CURVES = [
    ("cosine", 4, 0, [], [cosine_lr(i, 4) for i in range(4)]),
    ("cosine", 8, 3, [], [warmup_lr(0, 3), warmup_lr(1, 3), warmup_lr(2, 3), *(cosine_lr(i, 5) for i in range(5))]),
    ("cosine", 4, 4, [], [warmup_lr(0, 3), warmup_lr(1, 3), warmup_lr(2, 3), 2.0]),
    ("cosine", 1, 0, [], [2.0]),
    ("cosine", 1, 1, [], [2.0]),
    ("constant", 4, 2, [], [0.002, warmup_lr(1, 2), 2.0, 2.0]),
    ("constant", 3, 0, [9], [2.0, 2.0, 2.0]),
    ("plateau", 4, 2, [3], [0.002, warmup_lr(1, 2), 2.0, 2.0]),
    ("multi_step", 7, 2, [4, 6], [0.002, warmup_lr(1, 2), 2.0, 2.0, 0.2, 0.2, 0.02]),
    ("multi_step", 4, 0, [0, 2], [0.2, 0.2, 0.02, 0.02]),
    ("multi_step", 6, 3, [1, 3, 5], [warmup_lr(0, 3), warmup_lr(1, 3), warmup_lr(2, 3), 0.02, 0.02, 0.002]),
    ("multi_step", 1, 1, [1], [2.0]),
    ("step", 7, 0, [2], [2.0, 2.0, 0.2, 0.2, 0.02, 0.02, 0.002]),
    ("step", 5, 1, [3], [0.002, 2.0, 2.0, 0.2, 0.2]),
    ("step", 3, 0, [0], [2.0, 0.2, 0.02]),
    # Along cosines: from 1/25 of the peak to the peak, then to 1/10,000 of the initial rate.
    ("one_cycle", 5, 2, [], [0.08, 1.04, 2.0, 8e-6 + 0.75 * (2 - 8e-6), 8e-6 + 0.25 * (2 - 8e-6)]),
    ("one_cycle", 3, 3, [], [0.08, 1.04, 2.0]),
    ("one_cycle", 4, 0, [], [cosine_lr(i, 4) for i in range(4)]),
    ("one_cycle", 1, 0, [], [2.0]),
    ("one_cycle", 1, 5, [], [2.0]),
]


@pytest.mark.parametrize(("name", "steps", "warmup", "drops", "expected"), CURVES)
def test_schedules_by_hand(name: str, steps: int, warmup: int, drops: list[int], expected: list[float]) -> None:
    assert rates(*optimizer_and_schedule(name, steps, warmup, drops), steps) == pytest.approx(expected, rel=1e-6)


def test_cosine_rises_then_falls_to_nearly_zero() -> None:
    lrs = rates(*optimizer_and_schedule("cosine", 100, 10, []), 100)
    assert lrs[0] == pytest.approx(2e-3)
    assert lrs[10] == pytest.approx(2.0)
    assert lrs[55] == pytest.approx(1.0)
    assert 0 < lrs[-1] < 2e-3
    assert sorted(lrs[:11]) == lrs[:11]


def test_multi_step_falls_to_a_tenth_at_each_step() -> None:
    lrs = rates(*optimizer_and_schedule("multi_step", 90, 0, [60, 80]), 90)
    assert lrs[59] == pytest.approx(2.0)
    assert lrs[60] == pytest.approx(0.2)
    assert lrs[80] == pytest.approx(0.02)


def test_a_warm_up_does_not_move_the_steps() -> None:
    lrs = rates(*optimizer_and_schedule("multi_step", 90, 9, [60]), 90)
    assert lrs[9] == pytest.approx(2.0)
    assert lrs[59] == pytest.approx(2.0)
    assert lrs[60] == pytest.approx(0.2)


def test_a_plateau_lowers_the_rate_after_validations_without_a_better_score() -> None:
    """Patience 2, gamma ½: after the second of 0.3, 0.3, and after two more; a better score begins anew."""
    optimizer, schedule = optimizer_and_schedule("plateau", 20, 2, [])
    plateau = make_plateau(optimizer, patience=2, gamma=0.5, warmup=2)
    seen = []
    for step, score in enumerate([0.9, 0.9, 0.3, 0.3, 0.3, 0.3, 0.31, 0.1, 0.31, 0.2], start=0):
        plateau.on_validation(step, score)  # those before step 2 don't count
        seen.append(rates(optimizer, schedule, 1)[0])
    assert seen == pytest.approx([0.002, warmup_lr(1, 2), 2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.5], rel=1e-6)


def test_a_saved_plateau_continues() -> None:
    first = make_plateau(optimizer_and_schedule("plateau", 9, 0, [])[0], patience=2, gamma=0.1, warmup=0)
    first.on_validation(1, 0.5)
    first.on_validation(2, 0.4)
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    optimizer, _ = optimizer_and_schedule("plateau", 9, 0, [])
    second = make_plateau(optimizer, patience=2, gamma=0.1, warmup=0)
    second.load_state_dict(torch.load(saved, weights_only=True))
    second.on_validation(3, 0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


@pytest.mark.parametrize("warmup", range(1, 40))
def test_one_cycle_peaks_at_the_end_of_the_warm_up(warmup: int) -> None:
    lrs = rates(*optimizer_and_schedule("one_cycle", 40, warmup, []), 40)
    assert lrs.index(max(lrs)) == warmup
    assert max(lrs) == pytest.approx(2.0)


@pytest.mark.parametrize(("name", "steps", "warmup", "drops", "expected"), CURVES)
@pytest.mark.parametrize("done", [1, 2, 4])
def test_a_saved_schedule_continues(
    name: str, steps: int, warmup: int, drops: list[int], expected: list[float], done: int
) -> None:
    first = optimizer_and_schedule(name, steps, warmup, drops)
    rates(*first, min(done, steps))
    saved = io.BytesIO()
    torch.save([part.state_dict() for part in first], saved)
    saved.seek(0)
    second = optimizer_and_schedule(name, steps, warmup, drops)
    for part, state in zip(second, torch.load(saved, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert rates(*second, steps - done) == pytest.approx(expected[done:], rel=1e-6)


PARTS = [batch(seed) for seed in range(4)]


def gradients(trainer: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in trainer.detector.named_parameters() if p.grad is not None}


def test_parts_of_a_step_give_the_mean_of_their_gradients() -> None:
    """Each part is normalized by its positives; optimizer, schedule and EMA take one step for all parts."""
    trainer = tiny_trainer([PARTS], ema=None)
    reference = tiny_trainer([PARTS])
    reference.detector.train()
    for part in PARTS:
        outputs = reference.detector(reference.detector.normalize_batch(part.pixels, part.sizes))
        (reference.criterion(outputs, part.targets).total / 4).backward()
    trainer.ema = ModelEMA(trainer.detector, 0.9)
    history = trainer.fit()
    for name, gradient in gradients(reference).items():
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
def test_the_backbone_is_frozen_for_some_epochs_and_then_trained(tmp_path: Path, optimizer: str) -> None:
    steps = [[part] for part in PARTS[:2]]
    states: list[dict[str, torch.Tensor]] = []

    def copy_state(_: nn.Module) -> dict[str, float]:
        states.append({name: value.clone() for name, value in trainer.detector.state_dict().items()})
        return {}

    trainable: list[bool] = []

    def compile_model(network: nn.Module) -> nn.Module:
        trainable.append(next(network.parameters()).requires_grad)
        return network

    trainer = tiny_trainer(
        steps, epochs=3, backbone_frozen_epochs=2, validate=copy_state, compile_model=compile_model, optimizer=optimizer
    )
    before = {name: value.clone() for name, value in trainer.detector.state_dict().items()}
    trainer.fit()
    backbone = [name for name in before if name.startswith("backbone.")]
    assert any("running_mean" in name for name in backbone)
    for state in states[:2]:
        assert all(torch.equal(state[name], before[name]) for name in backbone)
        assert not torch.equal(state["head.box.weight"], before["head.box.weight"])
    changing = [name for name in backbone if "running" in name or "weight" in name]
    assert not any(torch.equal(states[2][name], before[name]) for name in changing)
    assert trainable == [False, True]

    for stop in (1, 3):  # within the frozen epochs, and after them
        interrupted = iter([False] * stop + [True] * 9)
        checkpoint = Checkpoint(tmp_path / str(stop))
        options: Any = {"epochs": 3, "backbone_frozen_epochs": 2, "optimizer": optimizer, "checkpoint": checkpoint}
        with pytest.raises(TrainingInterrupted):
            tiny_trainer(steps, **options, interrupted=lambda it=interrupted: next(it)).fit()
        resumed = tiny_trainer(steps, **options)
        resumed.fit()
        assert all(torch.equal(value, states[2][name]) for name, value in resumed.detector.state_dict().items())


def test_ema_does_not_synchronize_and_its_state_is_complete() -> None:
    detector = build(TINY, 2)
    ema = ModelEMA(detector, 0.9)
    with NoSynchronization():
        for _ in range(3):
            ema.update_parameters(detector)
    loaded = ModelEMA(build(TINY, 2), 0.9)
    loaded.load_state_dict(ema.state_dict())
    for average in (ema, loaded):
        with torch.no_grad():
            detector.head.scales.fill_(3.0)
        average.update_parameters(detector)
    assert loaded.updates == ema.updates == 4
    # The decay of the fourth update, from 1 towards 3, is 4/13.
    assert loaded.module.head.scales.tolist() == pytest.approx([1 * 4 / 13 + 3 * 9 / 13] * 2)
    assert torch.equal(loaded.module.head.scales, ema.module.head.scales)


def test_an_infinite_gradient_is_an_error() -> None:
    trainer = tiny_trainer([PARTS[:1]])
    trainer.detector.head.scales.register_hook(lambda gradient: gradient * inf)
    with pytest.raises(RuntimeError, match="gradient_norm"):
        trainer.fit()
