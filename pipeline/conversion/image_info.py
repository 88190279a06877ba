"""What the image files truly are: looked at in parallel, as closely as `convert.image_check` says."""

import hashlib
import io
import os
import struct
import zlib
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import imagehash
import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from pipeline.formats.records import Issue, RawImage

Mode = Literal["decode", "header", "trust"]
UPRIGHT = 1
DELAY = 1.0  # seconds without a bar: a short one would only flicker
# What Pillow raises for bytes that aren't a whole image, depending on the format.
_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
# The perceptual hash looks at 32 × 32 pixels: shrinking coarsely to this many first costs a tenth.
_SKETCH = 64
_FLAT = 8  # gray levels of 256 between the darkest and the brightest place


@dataclass(frozen=True, slots=True)
class ImageInfo:
    width: int  # pixels as stored: an EXIF rotation is ignored, since annotations refer to stored pixels
    height: int
    digest: str  # SHA-256 of the file's bytes, in hexadecimal; of its path, where it isn't read
    orientation: int = UPRIGHT  # how EXIF asks viewers to turn it (tag 274)
    alike: int | None = (
        None  # perceptual hash, 64 bits: close for the same picture saved anew; of decoded images that aren't flat
    )


def read_images(folder: Path, files: Sequence[str], mode: Mode) -> Generator[ImageInfo | Issue]:
    """Looks at images in turn and yields what was seen, in the order of `files`; threads keep all cores busy."""
    one: Callable[[Path], ImageInfo | Issue] = decode_image if mode == "decode" else read_header
    doing = "decoding images" if mode == "decode" else "reading images' headers"
    pool = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))))
    try:
        seen = pool.map(lambda file: one(folder / file), files)
        yield from tqdm(seen, doing, total=len(files), unit="image", mininterval=1.0, delay=DELAY)
    finally:
        pool.shutdown(cancel_futures=True)


def decode_image(path: Path) -> ImageInfo | Issue:
    """Size, content and perceptual hash of one image, decoded to its last pixel."""
    return _seen(path, decode=True)


def read_header(path: Path) -> ImageInfo | Issue:
    """Size by the image's header, and content; its pixels may still be broken."""
    return _seen(path, decode=False)


def trust_record(record: RawImage) -> ImageInfo | Issue:
    """What the record says of its image, of which nothing is read."""
    if record.declared_size is None:
        return Issue(
            "invalid_record", "it gives no size of its image, and none is read; -S convert.image_check=header reads it"
        )
    width, height = record.declared_size
    return ImageInfo(width, height, hashlib.sha256(os.fsencode(record.file)).hexdigest())


def _seen(path: Path, *, decode: bool) -> ImageInfo | Issue:
    recognized = False
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            recognized = True
            if decode:
                image.load()
            orientation = int(image.getexif().get(ExifTags.Base.Orientation, UPRIGHT))
            alike = _perceptual(image) if decode else None
            return ImageInfo(image.width, image.height, hashlib.sha256(content).hexdigest(), orientation, alike)
    except _UNDECODABLE as error:
        reason = str(error).replace(str(path), path.name).split("\n")[0]
        if recognized and (isinstance(error, EOFError) or "truncated" in reason.lower()):
            return Issue("truncated_image", f"its image {path.name} ends too early: {reason}")
        if "cannot identify image file" in reason:
            reason = "not in a known image format" if content else "the file is empty"
        return Issue("undecodable_image", f"its image {path.name} can't be decoded: {reason}")


def _perceptual(image: Image.Image) -> int | None:
    """imagehash's phash, by the signs of the lowest 8 × 8 frequencies: the same after scaling or JPEG's losses.

    None for a flat picture: noise would decide.
    """
    image = image.convert("L")
    sketch = image.reduce(max(1, min(image.size) // _SKETCH))
    flat = int(np.ptp(np.asarray(sketch))) < _FLAT
    return None if flat else int(str(imagehash.phash(sketch)), 16)
