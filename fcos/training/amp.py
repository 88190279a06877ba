"""Automatic mixed precision: convolutions in 16 bits, losses and weights in 32.

In training alone: validation and `evaluate` are in float32, so that they measure the same.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# What a CPU must be able to do, of x86 and of ARM, to multiply in these.
_INSTRUCTIONS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith")}


class Precision:
    """Where which precision is used; fp16's losses are scaled so that small gradients don't become 0."""

    def __init__(self, name: Literal["float32", "bf16", "fp16"], device: torch.device) -> None:
        self.name, self.device, self.dtype = name, device.type, PRECISIONS[name]
        self.scaler = torch.amp.GradScaler(self.device, enabled=name == "fp16")

    @property
    def warning(self) -> str | None:
        """One line where this precision works, but is no faster than float32."""
        if self.device != "cpu" or self.name == "float32" or not hasattr(torch.cpu, "get_capabilities"):
            return None  # an older torch can't tell
        able = torch.cpu.get_capabilities()
        if any(able.get(instruction) for instruction in _INSTRUCTIONS[self.name]):
            return None
        return f"train.precision: this CPU has no instructions for {self.name}, so float32 is faster"

    @property
    def skips(self) -> bool:
        """Whether a step whose gradients overflow is left out, and that is no fault."""
        return self.scaler.is_enabled()

    def forward(self) -> AbstractContextManager[None]:
        """The network runs within this; what comes out is brought to float32 before any loss."""
        return torch.autocast(self.device, self.dtype) if self.dtype else nullcontext()

    def backward(self, loss: Tensor) -> None:
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def clipped(self, optimizer: Optimizer, network: nn.Module, largest: float) -> Tensor:
        """Clips the gradients to a norm, and returns what it was, on its device."""
        self.scaler.unscale_(optimizer)
        return torch.nn.utils.clip_grad_norm_(network.parameters(), largest or torch.inf)

    def step(self, optimizer: Optimizer) -> None:
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scaler.load_state_dict(state)
