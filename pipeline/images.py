"""Image files to pixels."""

from pathlib import Path

import numpy as np
import PIL.Image
import torch

from pipeline.errors import PipelineError


def read_image(path: Path) -> torch.Tensor:
    """Decodes an image file as stored: uint8 [3, H, W] RGB. Grey becomes three equal channels; transparency goes.

    Raises:
        PipelineError: the file is missing or can't be decoded.
    """
    try:
        with PIL.Image.open(path) as image:
            pixels = np.array(image.convert("RGB"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise PipelineError(f"{path}: can't be decoded as an image: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
