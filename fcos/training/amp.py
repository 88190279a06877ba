"""Automatic mixed precision for training: convolutions in 16 bits, losses and weights in 32.

Validation and evaluation always run in float32, so that both measure the same.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

PRECISIONS: dict[str, torch.dtype | None] = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# CPU features (x86 and ARM) with which a CPU multiplies in this precision.
_INSTRUCTIONS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith")}


class Precision:
    """Runs the forward pass in a precision; with fp16 it scales the loss so that small gradients do not become 0."""

    def __init__(self, name: Literal["float32", "bf16", "fp16"], device: torch.device) -> None:
        self.name, self.device, self.dtype = name, device.type, PRECISIONS[name]
        self.scaler = torch.amp.GradScaler(self.device, enabled=name == "fp16")

    @property
    def warning(self) -> str | None:
        """A one-line warning if this precision works on the device but is no faster than float32."""
        if self.device != "cpu" or self.name == "float32" or not hasattr(torch.cpu, "get_capabilities"):
            return None  # older versions of torch do not report capabilities
        capabilities = torch.cpu.get_capabilities()
        if any(capabilities.get(instruction) for instruction in _INSTRUCTIONS[self.name]):
            return None
        return f"this CPU has no instructions for {self.name}, so float32 is faster"

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
