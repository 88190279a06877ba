"""Mixed precision: gradients close to those of float32, skipped overflows, and the loss scale as part of the state."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fcos.training import amp
from fcos.training.amp import Precision, fastest_precision
from fcos.training.guards import NonFiniteLossError
from fcos.training.optimization import make_schedule
from tests.support.tiny_trainer import TINY, batch, tiny_trainer

BATCH = batch(0, images=3)
# For tests with many steps, since 16 bits are slow on a CPU. Batch norm can't compute statistics of C5's only pixel.
IMAGE, FROZEN = batch(0, images=1, side=32), replace(TINY, batch_norm="frozen")
MODELS = {
    "plain": TINY,
    "normed": replace(TINY, neck="bifpn", neck_norm="batch", neck_activation="silu", batch_norm="frozen"),
    "exp": replace(TINY, neck="pan", neck_norm="group", box_output="exp", quality="iou", head_norm="batch"),
}


def gradients(trainer: Any) -> torch.Tensor:
    gradients = [p.grad for p in trainer.detector.parameters() if p.grad is not None]
    assert all(gradient.dtype == torch.float32 for gradient in gradients)
    return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_close_to_those_of_float32(name: str, model: str) -> None:
    def train(precision: str) -> torch.Tensor:
        trainer = tiny_trainer([[BATCH]], model=MODELS[model], precision=precision)
        trainer.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, enabled=precision == "fp16")
        row = trainer.fit().steps[0]
        gradient = gradients(trainer)
        # The gradients of fp16 are unscaled before they are clipped and their norm is logged.
        assert row["gradient_norm"] == pytest.approx(gradient.norm().item(), rel=1e-4)
        return gradient

    expected, actual = train("float32"), train(name)
    assert torch.cosine_similarity(expected, actual, dim=0) > 0.99
    assert actual.norm().item() == pytest.approx(expected.norm().item(), rel=0.05)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_the_loss_falls(name: str) -> None:
    trainer = tiny_trainer([[IMAGE]] * 15, model=FROZEN, precision=name, optimizer="adamw", lr=5e-3)
    steps = trainer.fit().steps
    assert steps[-1]["total"] < 0.7 * steps[0]["total"]


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_only_the_network_is_in_16_bits(name: str) -> None:
    trainer = tiny_trainer([[BATCH]], precision=name)
    dtypes: list[torch.dtype] = []
    # A ReLU, since the training view has its own convolutions and norms.
    trainer.detector.head.class_tower[2].register_forward_hook(
        lambda _module, inputs, _out: dtypes.append(inputs[0].dtype)
    )
    criterion: Any = trainer.criterion

    def observed_criterion(outputs: Any, targets: Any) -> Any:
        assert not torch.is_autocast_enabled("cpu")
        dtypes.extend(value.dtype for value in (outputs.logits, outputs.ltrb, outputs.quality))
        return criterion(outputs, targets)

    trainer.criterion = observed_criterion  # type: ignore[assignment]
    trainer.fit()
    assert trainer.detector.normalize_batch(BATCH.pixels, BATCH.sizes).dtype == torch.float32
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[name]
    assert dtypes == [half, half, torch.float32, torch.float32, torch.float32]  # the hook runs on two levels


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_steps_that_overflow_are_skipped(optimizer: str) -> None:
    """With a scale far too large for fp16, weights stay until the scale has halved often enough, without warnings."""
    trainer = tiny_trainer([[IMAGE]] * 14, model=FROZEN, precision="fp16", optimizer=optimizer, lr=1e-3)
    trainer.schedule = make_schedule(trainer.optimizer, name="cosine", steps=14, warmup=3, drops=[], gamma=0.1)
    trainer.precision.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)
    before = trainer.detector.head.box.weight.clone()
    unchanged: list[bool] = []
    trainer.detector.register_forward_pre_hook(
        lambda _module, _inputs: unchanged.append(torch.equal(trainer.detector.head.box.weight, before))
    )
    steps = trainer.fit().steps
    assert not torch.tensor(steps[0]["gradient_norm"]).isfinite()
    assert unchanged[1]
    assert not unchanged[-1]
    assert torch.tensor(steps[-1]["gradient_norm"]).isfinite()
    assert all(value.isfinite().all() for value in trainer.detector.state_dict().values())
    assert trainer.precision.scaler.get_scale() < 2.0**22


def test_a_loss_that_overflows_is_an_error_in_fp16_too() -> None:
    trainer = tiny_trainer([[BATCH]], precision="fp16")
    with torch.no_grad():
        trainer.detector.head.class_logits.bias.fill_(torch.inf)
    with pytest.raises(NonFiniteLossError):
        trainer.fit()


def test_the_scale_is_part_of_the_state() -> None:
    a, b = (Precision("fp16", torch.device("cpu")) for _ in range(2))
    a.backward(torch.ones(1, requires_grad=True).sum())
    a.scaler.update(8.0)
    b.load_state_dict(a.state_dict())
    b.backward(torch.ones(1, requires_grad=True).sum())
    assert b.scaler.get_scale() == 8.0
    assert Precision("bf16", torch.device("cpu")).state_dict() == {}


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., torch.device]:
    """Lets torch report a CPU's vendor and instructions."""

    def report(vendor: str, *instructions: str) -> torch.device:
        (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
        monkeypatch.setattr(amp, "_CPU_INFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True), raising=False)
        return torch.device("cpu")

    return report


@pytest.mark.parametrize(
    ("vendor", "instructions", "fastest"),
    [
        ("AuthenticAMD", ["avx512_bf16"], "bf16"),
        ("AuthenticAMD", ["avx512_f"], "float32"),
        ("GenuineIntel", ["avx512_bf16", "avx512_fp16"], "float32"),
        ("GenuineIntel", ["avx512_bf16", "amx_bf16"], "bf16"),
        ("", ["bf16"], "bf16"),  # ARM
    ],
)
def test_the_fastest_precision_of_a_cpu(
    cpu: Callable[..., torch.device], vendor: str, instructions: list[str], fastest: str
) -> None:
    assert fastest_precision(cpu(vendor, *instructions)) == fastest


def test_the_fastest_precision_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for supported, name in ((True, "bf16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation, yes=supported: yes)  # noqa: ARG005 - its name
        assert fastest_precision(torch.device("cuda")) == name


def test_warning_if_the_cpu_is_slower_in_16_bits(cpu: Callable[..., torch.device]) -> None:
    device = cpu("AuthenticAMD", "avx512_bf16")
    assert Precision("bf16", device).warning is None
    assert Precision("float32", device).warning is None
    assert Precision("fp16", device).warning == "on this CPU, fp16 is slower than float32"
    assert Precision("bf16", cpu("GenuineIntel", "avx512_bf16")).warning == "on this CPU, bf16 is slower than float32"
    assert Precision("fp16", torch.device("meta")).warning is None


def test_memory_formats_differ_only_by_rounding() -> None:
    def train(memory_format: torch.memory_format) -> torch.Tensor:
        trainer = tiny_trainer([[BATCH]])
        trainer.detector.set_memory_format(memory_format)
        batch = trainer.detector.normalize_batch(BATCH.pixels, BATCH.sizes)
        for tensor in (batch, trainer.detector.head.class_tower[0].weight):
            assert tensor.is_contiguous(memory_format=memory_format)
        trainer.fit()
        return gradients(trainer)

    torch.testing.assert_close(train(torch.contiguous_format), train(torch.channels_last), rtol=1e-3, atol=1e-5)
