"""Image files: size from the header, limits, and decoding by Pillow. Without torch, whose import takes seconds."""

import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import PIL.Image
from PIL import ExifTags
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.data.deep_images import EightBits, read_deep_image, read_tiff_size

MAX_MEGAPIXELS = 150.0  # default limit: the largest camera sensors; decoding such an image takes about 1.5 GB
UPRIGHT = 1  # the EXIF orientation of an image that is shown as stored
# What Pillow and tifffile raise for invalid or truncated images; it depends on the image's format.
DECODING_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    KeyError,
    IndexError,
    struct.error,
    zlib.error,
)

# None whose decoder runs a program, as Pillow's decoder of EPS does.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM", "JPEG2000", "AVIF", "TGA")
# PixelLimit replaces Pillow's limit, which warns at 89 megapixels and fails at 179 whatever the parameters say.
PIL.Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, slots=True)
class PixelLimit:
    """The largest image that is decoded. It protects from files of a few megabytes that decode to many gigabytes."""

    megapixels: float = MAX_MEGAPIXELS
    option: str = "-S convert.max_megapixels="  # that raises the limit

    def describe_excess(self, width: int, height: int) -> str | None:
        """What is too large about an image and what to do about it; None if it is within the limit."""
        megapixels = width * height / 1e6
        if megapixels <= self.megapixels:
            return None
        return (
            f"{width:,}×{height:,} is {megapixels:,.1f} megapixels, more than the limit of {self.megapixels:g}: "
            f"cut the image into tiles, or raise the limit: {self.option}{math.ceil(megapixels)}"
        )


DEFAULT_LIMIT = PixelLimit()


@dataclass(frozen=True, slots=True)
class OpenedImage:
    """An image file whose header has been read."""

    file: BinaryIO
    picture: ImageFile | None  # None: a TIFF that Pillow can't decode, such as one of three floats per pixel
    size: tuple[int, int]  # width and height in stored pixels

    @property
    def format(self) -> str:
        """As Pillow names it."""
        return (self.picture.format or "") if self.picture else "TIFF"

    @property
    def num_bytes(self) -> int:
        """The file's length."""
        return os.fstat(self.file.fileno()).st_size

    @property
    def orientation(self) -> int:
        """EXIF tag 274. Of a TIFF it is part of the format, and Pillow rotates the image."""
        if self.picture is None or self.format == "TIFF":
            return UPRIGHT
        return int(self.picture.getexif().get(ExifTags.Base.Orientation, UPRIGHT))

    def describe_excess(self, limit: PixelLimit) -> str | None:
        """As `PixelLimit.describe_excess`. The tiles of a TIFF count too, since they may be larger than the image."""
        tags = getattr(self.picture, "tag_v2", {})
        sides = [tags.get(tag, 0) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength)]
        tile = sides if all(isinstance(side, int) for side in sides) else (0, 0)
        return limit.describe_excess(*self.size) or limit.describe_excess(*tile)

    def read_deep(self) -> EightBits | None:
        """The pixels of an image with more than eight bits per channel; None for any other.

        Raises:
            DECODING_ERRORS: the file is invalid or truncated.
        """
        return read_deep_image(self.picture, self.file)

    def load(self) -> ImageFile:
        """The picture in its own mode, decoded by Pillow; only for images of which `read_deep` returns None.

        Raises:
            DECODING_ERRORS: the file is invalid or truncated.
        """
        if self.picture is None:
            raise PIL.UnidentifiedImageError("unknown image format")
        self.picture.load()
        return self.picture


@contextmanager
def open_image_file(path: Path) -> Iterator[OpenedImage]:
    """Opens an image file and reads its header, without decoding pixels.

    Raises:
        DECODING_ERRORS: the file can't be read, or its header is invalid.
    """
    with path.open("rb") as file:
        try:
            picture = PIL.Image.open(file, formats=_FORMATS)
        except PIL.UnidentifiedImageError:
            _check_jpeg_depth(file)
            yield OpenedImage(file, None, read_tiff_size(file))
            return
        with picture:
            yield OpenedImage(file, picture, picture.size)


def _check_jpeg_depth(file: BinaryIO) -> None:
    """Gives the reason why Pillow doesn't open a JPEG of 12 bits per channel: it drops the reason."""
    file.seek(0)
    if file.read(3) != b"\xff\xd8\xff":
        return
    file.seek(0)
    with suppress(EOFError, OSError, ValueError):
        try:
            JpegImageFile(file)
        except SyntaxError as error:
            if depth := re.search(r"\d+-bit", str(error)):
                message = f"a {depth[0]} JPEG, which can't be read: save it as PNG or TIFF with 16 bits"
                raise SyntaxError(message) from None


def describe_decoding_error(error: Exception, path: Path) -> str:
    """One of DECODING_ERRORS as a phrase."""
    if isinstance(error, PIL.UnidentifiedImageError):
        return "unknown image format" if path.stat().st_size else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).replace(str(path), path.name).split("\n")[0] or type(error).__name__
