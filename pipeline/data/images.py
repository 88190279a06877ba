"""Decodes image files. All code that needs pixels uses this module, so a file has the same pixels everywhere."""

import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from fcos.ops.torchvision_library import load_operators
from pipeline.errors import PipelineError

load_operators("image")

_RGB = 3  # torchvision.io.ImageReadMode.RGB
# The exceptions that Pillow raises for invalid or truncated images, depending on the format.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, PIL.Image.DecompressionBombError)


def read_image(path: Path) -> torch.Tensor:
    """Decodes an image file as stored: uint8 [3, H, W] RGB, with channels-last memory layout.

    | file | pixels |
    |---|---|
    | JPEG, WebP | decoded by torchvision, to the same pixels as by Pillow in a half and a quarter of the time |
    | everything else (PNG, GIF, BMP, TIFF, …) | decoded by Pillow |
    | gray | three equal channels |
    | 16-bit gray | upper eight bits |
    | palette | colors of the palette |
    | transparency (RGBA, gray with alpha, palette) | ignored: the stored colors |
    | CMYK, YCCK | converted to RGB without a color profile, as by Pillow |
    | EXIF orientation | ignored: boxes refer to stored pixels |
    | animation (GIF, WebP, PNG), pages (TIFF) | the first image |
    | truncated | an error, not filled with gray |
    | JPEG with corrupt data | decoded as far as possible; libjpeg warns on stderr |

    PNG files are decoded by Pillow, although torchvision is slightly faster: its libpng warns on stderr about every
    unusual color profile.

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


def from_pil(image: PIL.Image.Image) -> torch.Tensor:
    """An RGB picture as uint8 [3, H, W], with channels-last memory layout."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _by_torchvision(content: NDArray[np.uint8]) -> torch.Tensor | None:
    """None if torchvision can't decode the file or shouldn't; Pillow then decodes it or raises the error."""
    head = content[:12].tobytes()
    # Operators instead of their Python wrappers, which warn at each call that they will move to another package.
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
        return from_pil(_eight_bits(image).convert("RGB"))


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """The upper eight bits of a 16-bit gray image; Pillow's conversion clips everything above 255 to white."""
    if image.mode.startswith("I"):
        return PIL.Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return image


def resized(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resizes [3, H, W] to [3, height, width], keeping the type, with antialiasing."""
    if (height, width) == tuple(image.shape[-2:]):
        return image
    batch = image[None]
    if image.movedim(0, -1).is_contiguous():
        # With the stride of a larger batch, the result is channels-last as well, and its pixels need no second copy.
        batch = batch.as_strided(batch.shape, (image.numel(), *image.stride()))
    return F.interpolate(batch, (height, width), mode="bilinear", antialias=True)[0]
