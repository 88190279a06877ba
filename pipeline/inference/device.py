"""The device that a detector runs on."""

import torch

from pipeline.errors import PipelineError


def choose_device(name: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda`; `auto` means the GPU if torch can use one.

    Raises:
        PipelineError: `cuda` is given, but torch finds no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise PipelineError("device cuda: torch finds no GPU; set the device to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
