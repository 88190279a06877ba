"""Size, digest, orientation and perceptual hash of image files, read in parallel.

`convert.image_check` sets how much of a file is read: `decode` all of it, `header` its size only, `trust` nothing.
"""

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

ImageCheck = Literal["decode", "header", "trust"]
UPRIGHT = 1  # the EXIF orientation of an image that is shown as stored
PROGRESS_DELAY = 1.0  # seconds before a progress bar appears: a shorter task needs none
# What Pillow raises for an invalid or incomplete image; it depends on the image's format.
_DECODING_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
# The perceptual hash reads 32 × 32 pixels. Reducing the image coarsely to this size first takes a tenth of the time.
_REDUCED_SIZE = 64
_FLAT_RANGE = 8  # of 256 gray levels: an image with a smaller range has no meaningful perceptual hash


@dataclass(frozen=True, slots=True)
class ImageInfo:
    width: int  # in stored pixels: EXIF rotation is ignored, because annotations refer to stored pixels
    height: int
    digest: str  # SHA-256 of the file's content in hexadecimal; of its path if the file isn't read
    orientation: int = UPRIGHT  # EXIF tag 274
    perceptual_hash: int | None = None  # 64 bits; None if the image is flat or isn't decoded


def read_image_infos(folder: Path, files: Sequence[str], image_check: ImageCheck) -> Generator[ImageInfo | Issue]:
    """Yields the ImageInfo of each file, or its issue, in the order of `files`. Threads use all available cores."""
    read: Callable[[Path], ImageInfo | Issue] = decode_image if image_check == "decode" else read_header
    task = "decoding images" if image_check == "decode" else "reading image headers"
    pool = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))))
    try:
        infos = pool.map(lambda file: read(folder / file), files)
        yield from tqdm(infos, task, total=len(files), unit="image", mininterval=1.0, delay=PROGRESS_DELAY)
    finally:
        pool.shutdown(cancel_futures=True)


def decode_image(path: Path) -> ImageInfo | Issue:
    """The ImageInfo of one file, with all its pixels decoded."""
    return _read(path, decode=True)


def read_header(path: Path) -> ImageInfo | Issue:
    """The ImageInfo of one file by its header and digest, without perceptual hash; its pixels may be damaged."""
    return _read(path, decode=False)


def trust_record(record: RawImage) -> ImageInfo | Issue:
    """The ImageInfo that the record declares; the image file isn't read."""
    if record.declared_size is None:
        return Issue(
            "invalid_record", "has no image size, and the image is not read; -S convert.image_check=header reads it"
        )
    width, height = record.declared_size
    return ImageInfo(width, height, hashlib.sha256(os.fsencode(record.file)).hexdigest())


def _read(path: Path, *, decode: bool) -> ImageInfo | Issue:
    opened = False
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            opened = True
            if decode:
                image.load()
            orientation = int(image.getexif().get(ExifTags.Base.Orientation, UPRIGHT))
            perceptual_hash = _perceptual_hash(image) if decode else None
            digest = hashlib.sha256(content).hexdigest()
            return ImageInfo(image.width, image.height, digest, orientation, perceptual_hash)
    except _DECODING_ERRORS as error:
        reason = str(error).replace(str(path), path.name).split("\n")[0]
        if opened and (isinstance(error, EOFError) or "truncated" in reason.lower()):
            return Issue("truncated_image", f"image {path.name} is truncated: {reason}")
        if "cannot identify image file" in reason:
            reason = "unknown image format" if content else "the file is empty"
        return Issue("undecodable_image", f"image {path.name} can't be decoded: {reason}")


def _perceptual_hash(image: Image.Image) -> int | None:
    """The pHash of `imagehash`: signs of the lowest 8 × 8 frequencies, which scaling and JPEG compression preserve.

    Returns None for a flat image, whose hash would depend on noise alone.
    """
    image = image.convert("L")
    reduced = image.reduce(max(1, min(image.size) // _REDUCED_SIZE))
    is_flat = int(np.ptp(np.asarray(reduced))) < _FLAT_RANGE
    return None if is_flat else int(str(imagehash.phash(reduced)), 16)
