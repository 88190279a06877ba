"""The size of an image from its first bytes, for formats that state boxes as shares of it."""

import struct
import zlib
from pathlib import Path

from PIL import Image

from pipeline.formats.records import Fault

# What Pillow raises for bytes that aren't an image, depending on the format.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def size(path: Path) -> tuple[int, int] | Fault:
    """Width and height in pixels as stored, not decoding the image; an EXIF rotation is ignored."""
    try:
        with Image.open(path) as image:
            return image.size
    except _UNREADABLE:
        return Fault(
            "undecodable_image", f"its image {path.name} can't be read: its size, which boxes need, is unknown"
        )
