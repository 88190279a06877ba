"""Decodes image files. All code that needs pixels uses this module, so a file has the same pixels everywhere."""

from pathlib import Path

import numpy as np
import PIL.Image
import torch

from fcos.ops.torchvision_library import load_operators
from pipeline.data.image_files import (
    DECODING_ERRORS,
    DEFAULT_LIMIT,
    OpenedImage,
    PixelLimit,
    describe_decoding_error,
    open_image_file,
)
from pipeline.errors import PipelineError

load_operators("image")

_RGB = 3  # torchvision.io.ImageReadMode.RGB
# A JPEG or WebP file that is longer than this contains much besides the picture; Pillow doesn't read it as a whole.
_MAX_BYTES_PER_PIXEL, _MAX_OTHER_BYTES = 8, 2**26


def read_image(path: Path, size: tuple[int, int] | None = None, limit: PixelLimit = DEFAULT_LIMIT) -> torch.Tensor:
    """Decodes an image file as stored: uint8 [3, H, W] RGB, with channels-last memory layout.

    | file | pixels |
    |---|---|
    | JPEG, WebP | decoded by torchvision, to the same pixels as by Pillow in a half and a quarter of the time |
    | everything else (PNG, GIF, BMP, TIFF, …) | decoded by Pillow |
    | gray | three equal channels |
    | more than 8 bits per channel, floats | converted to 8 bits as `deep_images` describes |
    | palette | colors of the palette |
    | transparency (RGBA, gray with alpha, palette) | ignored: the stored colors |
    | CMYK, YCCK | converted to RGB without a color profile, as by Pillow |
    | EXIF orientation | ignored: boxes refer to stored pixels |
    | animation (GIF, WebP, PNG), pages (TIFF) | the first image |
    | truncated | an error, not filled with gray |
    | JPEG with corrupt data | decoded as far as possible; libjpeg warns on stderr |

    PNG files are decoded by Pillow, although torchvision is slightly faster: its libpng warns on stderr about every
    unusual color profile.

    Args:
        size: width and height that the image must have: those of its annotations, which conversion has accepted.
        limit: for images without `size`.

    Raises:
        PipelineError: the file is missing or can't be decoded, or the image is too large or has another size. Its size
            is read from the header, before any pixel is decoded.
    """
    try:
        with open_image_file(path) as image:
            _check_size(path, image, size, limit)
            deep = image.read_deep()
            if deep is not None:
                return torch.from_numpy(deep.rgb()).permute(2, 0, 1)
            pixels = _by_torchvision(image)
            return from_pil(image.load().convert("RGB")) if pixels is None else pixels
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None
    except DECODING_ERRORS as error:
        raise PipelineError(f"{path}: can't be decoded as an image: {describe_decoding_error(error, path)}") from None


def _check_size(path: Path, image: OpenedImage, size: tuple[int, int] | None, limit: PixelLimit) -> None:
    if size is None:
        if excess := image.describe_excess(limit):
            raise PipelineError(f"{path}: {excess}")
    elif image.size != size:
        width, height = image.size
        raise PipelineError(
            f"{path} has {width}×{height} pixels, but its annotations are for {size[0]}×{size[1]}: "
            "run `dvc repro -f convert`"
        )


def _by_torchvision(image: OpenedImage) -> torch.Tensor | None:
    """None if torchvision can't decode the file or shouldn't; Pillow then decodes it or raises the error."""
    if image.format not in ("JPEG", "MPO", "WEBP"):
        return None
    width, height = image.size
    if image.num_bytes > width * height * _MAX_BYTES_PER_PIXEL + _MAX_OTHER_BYTES:
        return None
    image.file.seek(0)
    content = torch.from_numpy(np.fromfile(image.file, dtype=np.uint8))
    # Operators instead of their Python wrappers, which warn at each call that they will move to another package.
    decode = torch.ops.image.decode_webp if image.format == "WEBP" else torch.ops.image.decode_jpeg
    try:
        return decode(content, _RGB)  # type: ignore[no-any-return]
    except RuntimeError:
        return None


def open_image(path: Path, size: tuple[int, int] | None = None) -> PIL.Image.Image:
    """The image that `read_image` decodes, as an RGB picture to draw on.

    Raises:
        PipelineError: as for `read_image`.
    """
    return to_pil(read_image(path, size))


def to_pil(image: torch.Tensor) -> PIL.Image.Image:
    """uint8 [3, H, W] RGB as a picture."""
    return PIL.Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pil(image: PIL.Image.Image) -> torch.Tensor:
    """An RGB picture as uint8 [3, H, W], with channels-last memory layout."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
