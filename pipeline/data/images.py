"""Image files to pixels: the one place that decodes them, so that a file has the same pixels everywhere."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import torchvision.io
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

from pipeline.errors import PipelineError

_RGB = torchvision.io.ImageReadMode.RGB.value
# What Pillow raises for bytes that aren't a whole image, depending on the format.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, PIL.Image.DecompressionBombError)


def read_image(path: Path) -> torch.Tensor:
    """Decodes an image file as stored: uint8 [3, H, W] RGB, the three colors of a pixel side by side in memory.

    | file | pixels |
    |---|---|
    | JPEG, WebP | decoded by torchvision: in half and a quarter of Pillow's time, to the same pixels |
    | everything else (PNG, GIF, BMP, TIFF, …) | decoded by Pillow |
    | gray | three equal channels |
    | 16-bit gray | its upper eight bits |
    | palette | its colors |
    | transparency (RGBA, gray with alpha, a palette's) | dropped: the colors stored below it |
    | CMYK, YCCK | to RGB without a color profile, as Pillow does |
    | EXIF orientation | not applied: boxes refer to stored pixels |
    | animation (GIF, WebP, PNG), pages (TIFF) | the first picture |
    | cut short | an error, never filled up with gray |
    | JPEG with damage inside | decoded as far as libjpeg can, which says so on stderr |

    PNG is Pillow's although torchvision reads it a little faster: its libpng writes to stderr about every odd color
    profile.

    Raises:
        PipelineError: the file is missing or can't be decoded.
    """
    try:
        content = np.fromfile(path, dtype=np.uint8)
        pixels = _by_torchvision(content)
        return _by_pillow(content) if pixels is None else pixels
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None
    except PIL.UnidentifiedImageError:
        raise PipelineError(f"{path}: can't be decoded as an image: its format is unknown") from None
    except _UNDECODABLE as error:
        raise PipelineError(f"{path}: can't be decoded as an image: {error}") from None


def open_image(path: Path) -> PIL.Image.Image:
    """The image that `read_image` decodes, as an RGB picture to draw on.

    Raises:
        PipelineError: the file is missing or can't be decoded.
    """
    return to_pil(read_image(path))


def to_pil(image: torch.Tensor) -> PIL.Image.Image:
    """uint8 [3, H, W] RGB as a picture."""
    return PIL.Image.fromarray(image.permute(1, 2, 0).numpy())


def _by_torchvision(content: NDArray[np.uint8]) -> torch.Tensor | None:
    """None where torchvision can't or shouldn't; Pillow then decides, and words the error."""
    head = content[:12].tobytes()
    # The operators and not their Python wrappers, which warn at each call that they will move to another package.
    try:
        if head[:3] == b"\xff\xd8\xff":
            return torch.ops.image.decode_jpeg(torch.from_numpy(content), _RGB)  # type: ignore[no-any-return]
        if head[:4] == b"RIFF" and head[8:] == b"WEBP":
            return torch.ops.image.decode_webp(torch.from_numpy(content), _RGB)  # type: ignore[no-any-return]
    except RuntimeError:
        return None
    return None


def _by_pillow(content: NDArray[np.uint8]) -> torch.Tensor:
    with PIL.Image.open(BytesIO(content.tobytes())) as image:
        return torch.from_numpy(np.array(_eight_bits(image).convert("RGB"))).permute(2, 0, 1)


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """A 16-bit gray image by its upper eight bits; Pillow alone would clip everything above 255 to white."""
    if image.mode.startswith("I"):
        return PIL.Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return image


def resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """[3, H, W] to [3, height, width], of the same type, smoothed where it becomes smaller."""
    if (height, width) == tuple(image.shape[-2:]):
        return image
    answer: torch.Tensor = functional.resize(image, [height, width], antialias=True)
    return answer
