"""Automatic mixed precision for training: convolutions in 16 bits, losses and weights in 32.

Validation and evaluation always run in float32, so that both measure the same.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Name = Literal["float32", "bf16", "fp16"]
PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_CPU_INFO = Path("/proc/cpuinfo")


def fastest_precision(device: torch.device) -> Literal["float32", "bf16"]:
    """The precision in which detectors train fastest: bf16 if the device computes convolutions faster so."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bf16" if _cpu_gains_from("bf16") else "float32"


def _cpu_gains_from(name: Literal["bf16", "fp16"]) -> bool:
    """Whether this CPU computes convolutions faster in 16 bits than in float32.

    With AVX-512's instructions for 16 bits alone, convolutions on Intel's CPUs are slower than in float32; AMD's gain.
    """
    if not hasattr(torch.cpu, "get_capabilities"):  # torch before 2.10
        return False
    capabilities = torch.cpu.get_capabilities()
    if any(capabilities.get(instruction) for instruction in _FAST_INSTRUCTIONS[name]):
        return True
    return name == "bf16" and bool(capabilities.get("avx512_bf16")) and _is_amd()


_FAST_INSTRUCTIONS = {"bf16": ("amx_bf16", "bf16"), "fp16": ("amx_fp16", "fp16_arith")}  # of x86 and ARM


def _is_amd() -> bool:
    return _CPU_INFO.is_file() and "AuthenticAMD" in _CPU_INFO.read_text(encoding="utf-8", errors="replace")


class Precision:
    """Runs the forward pass in a precision; with fp16 it scales the loss so that small gradients do not become 0."""

    def __init__(self, name: Name, device: torch.device) -> None:
        self.name, self.device, self.dtype = name, device.type, PRECISIONS[name]
        self.scaler = torch.amp.GradScaler(self.device, enabled=name == "fp16")

    @property
    def warning(self) -> str | None:
        """A one-line warning if this precision works on the device but is no faster than float32."""
        if self.device != "cpu" or self.name == "float32" or _cpu_gains_from(self.name):
            return None
        return f"on this CPU, {self.name} is slower than float32"

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled. A step whose gradients overflow is then skipped, which is no error."""
        return self.scaler.is_enabled()

    def forward(self) -> AbstractContextManager[None]:
        """Context for the network's forward pass; convert its outputs to float32 before computing losses."""
        return torch.autocast(self.device, self.dtype) if self.dtype else nullcontext()

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def clip_gradients(self, optimizer: Optimizer, network: nn.Module, max_norm: float) -> Tensor:
        """Clips the gradients to a norm (0: no limit) and returns their norm before clipping, on its device."""
        self.scaler.unscale_(optimizer)
        return torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm or torch.inf)

    def step(self, optimizer: Optimizer) -> None:
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state)
