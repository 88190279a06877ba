"""The processes that train one detector together, of which there is one at least."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from torch import Tensor, nn


class Processes(Protocol):
    """What training asks of its fellow processes. All of them call each method alike."""

    @property
    def rank(self) -> int:
        """This process's number, from 0; the first one writes and speaks."""

    @property
    def count(self) -> int:
        """How many there are."""

    def joined(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over all processes as they are made."""

    def apart(self, network: nn.Module) -> AbstractContextManager[None]:
        """Within this, gradients of a joined network add up in each process alone."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a float tensor over all processes, on its device, without waiting for a GPU."""

    def highest(self, value: int) -> int:
        """The highest of the processes' numbers; the device isn't waited for."""

    def gathered(self, value: Any) -> Sequence[Any]:
        """Each process's value, in the order of their ranks."""

    def of_first(self, value: Any) -> Any:
        """The first process's value."""


class Alone:
    """One process."""

    rank = 0
    count = 1

    def joined(self, network: nn.Module) -> nn.Module:
        return network

    def apart(self, network: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def mean(self, value: Tensor) -> Tensor:
        return value

    def highest(self, value: int) -> int:
        return value

    def gathered(self, value: Any) -> Sequence[Any]:
        return [value]

    def of_first(self, value: Any) -> Any:
        return value


ALONE: Processes = Alone()
