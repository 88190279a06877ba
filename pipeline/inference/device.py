"""The device that a detector runs on."""

import torch

from pipeline.errors import PipelineError


def choose_device(name: str) -> torch.device:
    """auto, cpu or cuda; `auto` is the GPU where torch can use one.

    Raises:
        PipelineError: cuda was asked for and isn't there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise PipelineError("device cuda: torch finds no GPU; set it to auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
