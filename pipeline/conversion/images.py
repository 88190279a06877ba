"""What the image files truly are: every one is decoded whole, in parallel."""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image
from tqdm import tqdm

from pipeline.formats.records import Fault

_UPRIGHT = 1
# What Pillow raises for bytes that aren't a whole image, depending on the format.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


@dataclass(frozen=True, slots=True)
class Look:
    width: int  # pixels as stored: an EXIF rotation is ignored, since annotations refer to stored pixels
    height: int
    digest: str  # SHA-256 of the file's bytes, in hexadecimal
    rotated: bool  # EXIF asks viewers to turn it


def looks(folder: Path, files: Sequence[str]) -> Generator[Look | Fault]:
    """Decodes images in turn and yields what was seen, in the order of `files`; threads keep all cores busy."""
    pool = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))))
    try:
        seen = pool.map(lambda file: look(folder / file), files)
        yield from tqdm(seen, "decoding images", total=len(files), unit="image", mininterval=1.0, delay=1.0)
    finally:
        pool.shutdown(cancel_futures=True)


def look(path: Path) -> Look | Fault:
    """Size and content of one image, decoded to its last pixel."""
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            rotated = image.getexif().get(ExifTags.Base.Orientation, _UPRIGHT) != _UPRIGHT
            return Look(image.width, image.height, hashlib.sha256(content).hexdigest(), rotated)
    except _UNDECODABLE as error:
        reason = str(error).replace(str(path), path.name).split("\n")[0]
        if "cannot identify image file" in reason:
            reason = "not in a known image format"
        return Fault("undecodable_image", f"its image {path.name} can't be decoded: {reason}")
