"""torch.compile with a fallback to the uncompiled model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fcos.structures import Outputs


class CompiledModel(nn.Module):
    """A detector compiled by torch.compile, or the detector itself if compilation fails.

    Most failures (no C++ compiler, an operator that cannot be lowered) occur in the forward or backward pass of the
    first batch. That batch is therefore run once as a warm-up, which changes no gradient, no buffer and no random
    number: a resumed training, which warms up again, gives the same result.

    All processes warm up together, since synchronized batch norm communicates in the warm-up too.

    Args:
        network: the detector. Take `state_dict` from it, not from this module.
        fixed_shape: whether all batches have one shape. Otherwise a single program for all shapes is compiled at the
            start: compiling it when the second shape occurs would change the rounding of a resumed training.
        warn: called with one line if compilation fails.
        backend: backend of torch.compile.
    """

    def __init__(
        self, network: nn.Module, *, fixed_shape: bool, warn: Callable[[str], None], backend: str = "inductor"
    ) -> None:
        super().__init__()
        self.network, self.warn = network, warn
        # In a list, so that the network's parameters are not registered a second time.
        self._model = [torch.compile(network, dynamic=not fixed_shape, backend=backend)]
        self._warmed_up = False

    def forward(self, batch: Tensor) -> Outputs:
        """See `Detector.forward`."""
        if not self._warmed_up:
            self._warm_up(batch)
        outputs: Outputs = self._model[0](batch)
        return outputs

    def _warm_up(self, batch: Tensor) -> None:
        self._warmed_up = True
        try:
            with _preserve_state(self.network, batch.device):
                _backward(self._model[0](batch), self.network)
        except Exception as error:  # noqa: BLE001 - compilers fail in many ways; an error of the network itself occurs again
            self.warn(f"torch.compile fails here ({_reason(error)}); training continues without it")
            self._model[0] = self.network


def _reason(error: Exception) -> str:
    """The first line of the message, with the next line if it ends in a colon: "backend='inductor' raised:"."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join([first, *others[:1]]) if first.endswith(":") else first


def _backward(outputs: Outputs, network: nn.Module) -> None:
    """Runs the backward pass without writing to .grad, which DDP would take for a step's gradients."""
    tensors = [outputs.logits, outputs.ltrb, *([] if outputs.quality is None else [outputs.quality])]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    total = torch.stack([tensor.float().sum() for tensor in tensors]).sum()
    torch.autograd.grad(total, trained, allow_unused=True)


@contextmanager
def _preserve_state(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Restores buffers and the random number generators on exit."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
            yield
    finally:
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)
