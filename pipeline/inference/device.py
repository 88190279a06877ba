"""The device that a detector runs on."""

import torch

from pipeline.errors import PipelineError
from pipeline.process import keep_freed_memory


def choose_device(name: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; `auto` means the GPU if torch can use one.

    Raises:
        PipelineError: `cuda` is given, but torch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise PipelineError("device cuda: torch finds no GPU; set the device to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def prepare_device(name: str) -> torch.device:
    """The device that `choose_device` returns; on a CPU, freed memory is kept for the tensors of the next batch.

    For work on many batches. The process returns that memory to the system only at its end.

    Raises:
        PipelineError: as for `choose_device`.
    """
    device = choose_device(name)
    if device.type == "cpu":
        keep_freed_memory()
    return device
