"""Communication between the processes that train one detector; a single process is the simplest case."""

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

# torch 2.15 deprecates the option under its old name, which earlier versions have alone.
_DDP_OPTIONS = inspect.signature(DistributedDataParallel).parameters
_KEEP_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers": False
}


class Processes(Protocol):
    """The operations between processes that training needs. All processes must call each method together."""

    @property
    def rank(self) -> int:
        """This process's number, from 0. Process 0 writes files and messages."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    def wrap(self, network: nn.Module) -> nn.Module:
        """Returns the network with its gradients averaged over all processes in the backward pass.

        Buffers stay separate: batch norm's statistics are those of each process's own images.
        """

    def no_sync(self, network: nn.Module) -> AbstractContextManager[None]:
        """Context in which a wrapped network accumulates gradients without averaging them."""

    def broadcast_buffers(self, network: nn.Module) -> None:
        """Copies process 0's buffers to all processes, so that all evaluate the same network."""

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a float tensor over all processes, on its device, without waiting for a GPU."""

    def max(self, value: int) -> int:
        """Maximum over all processes, without waiting for a GPU."""

    def all_gather_object(self, value: Any) -> Sequence[Any]:
        """The values of all processes, ordered by rank: Python's plain types and tensors on the CPU."""

    def broadcast_object(self, value: Any) -> Any:
        """Process 0's value, of the same types."""


class SingleProcess:
    """Training in one process."""

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
    """The processes of torch.distributed's default group: gloo for tensors on a CPU, NCCL for tensors on a GPU."""

    def __init__(self) -> None:
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()

    def wrap(self, network: nn.Module) -> nn.Module:
        # find_unused_parameters stays False: every trained parameter has a gradient in every step, with or without
        # objects. Without _KEEP_BUFFERS, DDP would overwrite batch norm's statistics with process 0's in each step.
        return DistributedDataParallel(network, gradient_as_bucket_view=True, **_KEEP_BUFFERS)

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

    # torch's own functions for objects unpickle them: whoever could connect to a process could run code in it.

    def all_gather_object(self, value: Any) -> Sequence[Any]:
        data = _to_bytes(value)
        sizes = list(torch.empty(self.world_size, 1, dtype=torch.int64))
        dist.all_gather(sizes, torch.tensor([len(data)]))
        largest = int(max(sizes))
        parts = list(torch.empty(self.world_size, largest, dtype=torch.uint8))
        dist.all_gather(parts, functional.pad(data, (0, largest - len(data))))
        return [_from_bytes(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]

    def broadcast_object(self, value: Any) -> Any:
        data = _to_bytes(value) if self.rank == 0 else torch.empty(0, dtype=torch.uint8)
        size = torch.tensor(len(data))
        dist.broadcast(size, src=0)
        data = data if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, src=0)
        return value if self.rank == 0 else _from_bytes(data)


def _to_bytes(value: Any) -> Tensor:
    buffer = BytesIO()
    torch.save(value, buffer)
    return torch.frombuffer(buffer.getbuffer(), dtype=torch.uint8)


def _from_bytes(data: Tensor) -> Any:
    return torch.load(BytesIO(data.numpy().tobytes()), weights_only=True)


@contextmanager
def process_group(device: torch.device, store: Path | None = None) -> Iterator[Processes]:
    """Joins the process group that RANK and WORLD_SIZE describe.

    On GPUs, each process makes the GPU of its LOCAL_RANK the current device.

    Args:
        store: a file by which the processes of one machine find each other; it must not exist before, and its folder
            must be closed to other users. None: they connect to MASTER_ADDR and MASTER_PORT, as torchrun sets them.
    """
    if device.type == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
    world_size = int(os.environ["WORLD_SIZE"])
    file_store = dist.FileStore(str(store), world_size) if store else None  # type: ignore[attr-defined]
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        rank=int(os.environ["RANK"]),
        world_size=world_size,
        store=file_store,
    )
    yield DistributedProcesses()
    # Not after an error: this would wait for the other processes, which do not know of it yet.
    dist.destroy_process_group()


SINGLE_PROCESS: Processes = SingleProcess()
