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
    def world_size(self) -> int:
        """How many there are."""

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network with its gradients averaged over all processes as they are made."""

    def no_sync(self, network: nn.Module) -> AbstractContextManager[None]:
        """Within this, gradients of a joined network add up in each process alone."""

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Gives every process the first one's buffers: batch norm's statistics, which each has of its own images."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a float tensor over all processes, on its device, without waiting for a GPU."""

    def max(self, value: int) -> int:
        """The highest of the processes' numbers; the device isn't waited for."""

    def all_gather_object(self, value: Any) -> Sequence[Any]:
        """Each process's value, in the order of their ranks."""

    def broadcast_object(self, value: Any) -> Any:
        """The first process's value."""


class SingleProcess:
    """One process."""

    rank = 0
    world_size = 1

    def wrap(self, network: nn.Module) -> nn.Module:
        return network

    def no_sync(self, network: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002
        return nullcontext()

    def broadcast_buffers(self, network: nn.Module) -> None:
        pass

    def mean(self, value: Tensor) -> Tensor:
        return value

    def max(self, value: int) -> int:
        return value

    def all_gather_object(self, value: Any) -> Sequence[Any]:
        return [value]

    def broadcast_object(self, value: Any) -> Any:
        return value


class DistributedProcesses:
    """The processes of torch.distributed's default group. What lies on a CPU goes by gloo, what on a GPU by NCCL."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def wrap(self, network: nn.Module) -> nn.Module:
        # Every parameter that learns has a gradient in every step, also without objects: none has to be looked for.
        return DistributedDataParallel(network, gradient_as_bucket_view=True)

    def no_sync(self, network: nn.Module) -> AbstractContextManager[None]:
        assert isinstance(network, DistributedDataParallel)
        return network.no_sync()

    def broadcast_buffers(self, network: nn.Module) -> None:
        for buffer in network.buffers():
            dist.broadcast(buffer, src=0)

    def mean(self, value: Tensor) -> Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total.div_(self.world_size)

    def max(self, value: int) -> int:
        number = torch.tensor(value)
        dist.all_reduce(number, op=dist.ReduceOp.MAX)
        return int(number)

    def all_gather_object(self, value: Any) -> Sequence[Any]:
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def broadcast_object(self, value: Any) -> Any:
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
    yield DistributedProcesses()
    # Not after an error: the others, who know nothing of it yet, would be waited for.
    dist.destroy_process_group()


SINGLE_PROCESS: Processes = SingleProcess()
