"""Size, digest, orientation and perceptual hash of image files, read in parallel.

`convert.image_check` sets how much of a file is read: `decode` all of it, `header` its size only, `trust` nothing.
"""

import hashlib
import os
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Literal

import imagehash
import numpy as np
from PIL import Image
from tqdm import tqdm

from pipeline.data.image_files import (
    DECODING_ERRORS,
    DEFAULT_LIMIT,
    UPRIGHT,
    OpenedImage,
    PixelLimit,
    describe_decoding_error,
    open_image_file,
)
from pipeline.files import digest
from pipeline.formats.records import Issue, RawImage

ImageCheck = Literal["decode", "header", "trust"]
PROGRESS_DELAY = 1.0  # seconds before a progress bar appears: a shorter task needs none
# Larger images are decoded one at a time, so that memory doesn't grow with the number of cores.
_LARGE_IMAGE = 25e6  # pixels
_LARGE_IMAGE_LOCK = Lock()
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
    value_range: str | None = None  # values that become black and white, if they have more than 8 bits


def read_image_infos(
    folder: Path, files: Sequence[str], image_check: ImageCheck, limit: PixelLimit = DEFAULT_LIMIT
) -> Generator[ImageInfo | Issue]:
    """Yields the ImageInfo of each file, or its issue, in the order of `files`. Threads use all available cores."""
    read: Callable[..., ImageInfo | Issue] = decode_image if image_check == "decode" else read_header
    task = "decoding images" if image_check == "decode" else "reading image headers"
    pool = ThreadPoolExecutor(max(1, len(os.sched_getaffinity(0))))
    try:
        infos = pool.map(lambda file: read(folder / file, limit), files)
        yield from tqdm(infos, task, total=len(files), unit="image", mininterval=1.0, delay=PROGRESS_DELAY)
    finally:
        pool.shutdown(cancel_futures=True)


def decode_image(path: Path, limit: PixelLimit = DEFAULT_LIMIT) -> ImageInfo | Issue:
    """The ImageInfo of one file, with all its pixels decoded."""
    return _read(path, limit, decode=True)


def read_header(path: Path, limit: PixelLimit = DEFAULT_LIMIT) -> ImageInfo | Issue:
    """The ImageInfo of one file by its header and digest, without perceptual hash; its pixels may be damaged."""
    return _read(path, limit, decode=False)


def trust_record(record: RawImage, limit: PixelLimit = DEFAULT_LIMIT) -> ImageInfo | Issue:
    """The ImageInfo that the record declares; the image file isn't read."""
    if record.declared_size is None:
        return Issue(
            "invalid_record", "has no image size, and the image is not read; -S convert.image_check=header reads it"
        )
    width, height = record.declared_size
    if excess := limit.describe_excess(width, height):
        return Issue("oversized_image", f"image {excess}")
    return ImageInfo(width, height, hashlib.sha256(os.fsencode(record.file)).hexdigest())


def _read(path: Path, limit: PixelLimit, *, decode: bool) -> ImageInfo | Issue:
    opened = False
    try:
        with open_image_file(path) as image:
            opened = True
            if excess := image.describe_excess(limit):
                return Issue("oversized_image", f"image {path.name}: {excess}")
            orientation = image.orientation
            perceptual_hash, value_range = _decode(image) if decode else (None, None)
            return ImageInfo(*image.size, digest(path), orientation, perceptual_hash, value_range)
    except DECODING_ERRORS as error:
        reason = describe_decoding_error(error, path)
        if opened and (isinstance(error, EOFError) or "truncated" in reason.lower()):
            return Issue("truncated_image", f"image {path.name} is truncated: {reason}")
        return Issue("undecodable_image", f"image {path.name} can't be decoded: {reason}")


def _decode(image: OpenedImage) -> tuple[int | None, str | None]:
    """The perceptual hash and the value range of an image."""
    width, height = image.size
    with _LARGE_IMAGE_LOCK if width * height > _LARGE_IMAGE else nullcontext():
        deep = image.read_deep()
        if deep is not None:
            return _perceptual_hash(Image.fromarray(deep.pixels)), deep.description
        return _perceptual_hash(image.load()), None


def _perceptual_hash(image: Image.Image) -> int | None:
    """The pHash of `imagehash`: signs of the lowest 8 × 8 frequencies, which scaling and JPEG compression preserve.

    Returns None for a flat image, whose hash would depend on noise alone.
    """
    image = image.convert("L")
    reduced = image.reduce(max(1, min(image.size) // _REDUCED_SIZE))
    is_flat = int(np.ptp(np.asarray(reduced))) < _FLAT_RANGE
    return None if is_flat else int(str(imagehash.phash(reduced)), 16)
