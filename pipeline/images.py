"""Image files to pixels."""

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from torchvision.transforms.v2 import functional

from pipeline.errors import PipelineError


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """A 16-bit grey image by its upper eight bits; Pillow alone would clip everything above 255 to white."""
    if image.mode.startswith("I"):
        return PIL.Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return image


def read_image(path: Path) -> torch.Tensor:
    """Decodes an image file as stored: uint8 [3, H, W] RGB. Grey becomes three equal channels, 16 bits become 8,
    transparency goes.

    Raises:
        PipelineError: the file is missing or can't be decoded.
    """
    try:
        with PIL.Image.open(path) as image:
            pixels = np.array(_eight_bits(image).convert("RGB"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise PipelineError(f"{path}: can't be decoded as an image: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


def resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[3, H, W] to [3, height, width], of the same type."""
    if (height, width) == tuple(image.shape[-2:]):
        return image
    answer: torch.Tensor = functional.resize(image, [height, width], antialias=True)
    return answer
