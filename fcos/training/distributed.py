"""The processes that train one detector together, of which there is one at least."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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

    def alike(self, network: nn.Module) -> None:
        """Gives every process the first one's buffers: batch norm's statistics, which each has of its own images."""

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

    def alike(self, network: nn.Module) -> None:
        pass

    def mean(self, value: Tensor) -> Tensor:
        return value

    def highest(self, value: int) -> int:
        return value

    def gathered(self, value: Any) -> Sequence[Any]:
        return [value]

    def of_first(self, value: Any) -> Any:
        return value


class Group:
    """The processes of torch.distributed's default group. What lies on a CPU goes by gloo, what on a GPU by NCCL."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def joined(self, network: nn.Module) -> nn.Module:
        # Every parameter that learns has a gradient in every step, also without objects: none has to be looked for.
        return DistributedDataParallel(network, gradient_as_bucket_view=True)

    def apart(self, network: nn.Module) -> AbstractContextManager[None]:
        assert isinstance(network, DistributedDataParallel)
        return network.no_sync()

    def alike(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)

    def mean(self, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total.div_(self.count)

    def highest(self, value: int) -> int:
        number = torch.tensor(value)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)

    def gathered(self, value: Any) -> Sequence[Any]:
        values = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def of_first(self, value: Any) -> Any:
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


@contextmanager
def group(device: torch.device) -> Iterator[Processes]:
    """Joins the processes that torch's launcher has started, as its environment variables say.

    Where they train on GPUs, the current one becomes this process's own.
    """
    if device.type == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    yield Group()
    # Not after an error: the others, who know nothing of it yet, would be waited for.
    dist.destroy_process_group()


ALONE: Processes = Alone()
