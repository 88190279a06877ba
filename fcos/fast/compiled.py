"""torch.compile, for networks that may turn out not to take it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fcos.structures import Outputs


class Compiled(nn.Module):
    """A detector through torch.compile; where that fails, the detector as it is.

    Most failures (no C++ compiler, an operator that can't be lowered) come with the first batch, forward or backward.
    So that is rehearsed: a network that fails leaves no trace in gradients, statistics of norms or random numbers, and
    one that doesn't leaves none either, so a training that is resumed, and rehearses again, ends alike.

    Every process rehearses its first batch, and so meets the others' synchronized norms there.

    Args:
        network: keeps its parameters, under their names: `state_dict` is asked of it, not of this.
        fixed: whether every batch has the same shape. If not, one program for all shapes is made at once: making it
            when the second shape comes would let a resumed training round otherwise.
        tell: is told in one line why it isn't compiled.
        backend: torch.compile's.
    """

    def __init__(
        self, network: nn.Module, *, fixed: bool, tell: Callable[[str], None], backend: str = "inductor"
    ) -> None:
        super().__init__()
        self.network, self.tell = network, tell
        # Within a list it is no part of this module: the network's parameters are registered once.
        self._chosen = [torch.compile(network, dynamic=not fixed, backend=backend)]
        self._rehearsed = False

    def forward(self, batch: Tensor) -> Outputs:
        """As the detector's."""
        if not self._rehearsed:
            self._rehearse(batch)
        outputs: Outputs = self._chosen[0](batch)
        return outputs

    def _rehearse(self, batch: Tensor) -> None:
        self._rehearsed = True
        try:
            with _without_trace(self.network, batch.device):
                _backward(self._chosen[0](batch), self.network)
        except Exception as error:  # noqa: BLE001 - compilers fail in many ways; a fault of the network itself comes again
            self.tell(f"train.compile: torch.compile fails here ({_reason(error)}), so training goes on without it")
            self._chosen[0] = self.network


def _reason(error: Exception) -> str:
    """The first line that says something: "backend='inductor' raised:" has it in the next."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join([first, *others[:1]]) if first.endswith(":") else first


def _backward(outputs: Outputs, network: nn.Module) -> None:
    """Not into .grad, where DDP would take it for a step's."""
    parts = [outputs.logits, outputs.ltrb, *([] if outputs.quality is None else [outputs.quality])]
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    total = torch.stack([part.float().sum() for part in parts]).sum()
    torch.autograd.grad(total, learned, allow_unused=True)


@contextmanager
def _without_trace(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Afterwards buffers and random numbers are what they were."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
            yield
    finally:
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)
