"""A cache of decoded and resized images on disk, for later epochs and trainings."""

import fcntl
import hashlib
import os
import shutil
import sys
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fcos.config import InputSize
from fcos.ops.images import resized
from pipeline.data.annotations import Image
from pipeline.data.images import read_image
from pipeline.errors import PipelineError
from pipeline.files import remove

_PIXELS = 2  # raised when `read_image` or `resized` gives other pixels for the same file
_WORD = 8  # bytes; checksums are sums of 64-bit words, so every image starts at a multiple of 8


class ImageCache:
    """A data set's images at one size, as raw RGB in a single file, each at a fixed offset.

    Any number of processes may read and write at the same time. An image is stored first and its checksum afterwards;
    only an image with the right checksum is used. So an image that a killed process or a machine failure left
    incomplete is decoded again. If the disk fills up later, further images are not cached, without an error.

    The cache lies in `<store>/<data set>/<hash of the files' names and contents>/<size>`. Opening it removes the caches
    of changed files of the same data set, unless another process uses them.

    Args:
        store: the folder of all caches.
        raw: the folder of the image files, named after the data set.
        images: all images of the split; an image's position in this sequence is its index in the cache.
        digests: of the content of each image's file, in the same order.
        input_size: the size that images are resized to.
    """

    def __init__(
        self, store: Path, raw: Path, images: Sequence[Image], digests: Sequence[str], input_size: InputSize
    ) -> None:
        self.shapes = np.array([(image.height, image.width) for image in images], dtype=np.int64)
        self.sizes = np.array([input_size.resized(image.height, image.width) for image in images], dtype=np.int64)
        words = -(-self.sizes.prod(axis=1) * 3 // _WORD)
        self._offsets = np.concatenate([[0], words.cumsum() * _WORD])
        kind = "letterbox" if input_size.letterbox else "sides"
        files = store / raw.name / _identity(images, digests)
        lock = _lock_folder(files)
        _remove_unused(files)
        self.folder = files / f"{kind}-{input_size.size[0]}-{input_size.size[1]}"
        self.folder.mkdir(exist_ok=True)
        # File descriptors instead of memory maps: reads at an offset need no map, and a full disk is an error instead
        # of a crash. Forked processes share the descriptors, and with them the lock.
        self._pixels, self._sums = (os.open(self.folder / name, os.O_RDWR | os.O_CREAT) for name in ("pixels", "sums"))
        os.ftruncate(self._sums, len(images) * _WORD)
        weakref.finalize(self, _close, lock, self._pixels, self._sums)

    def check_free_space(self, indices: NDArray[np.int64]) -> None:
        """Makes sure that the disk has room for those of the images that are not cached yet.

        Raises:
            PipelineError: it has not; the message gives the needed and the free space.
        """
        sums = np.fromfile(self.folder / "sums", dtype=np.uint64)
        needed = int((np.diff(self._offsets)[indices] * (sums[indices] == 0)).sum())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise PipelineError(
                f"machine.cache: {self.folder} needs {needed / 1e9:.1f} GB more, but only {free / 1e9:.1f} GB are "
                "free: free up space, or set machine.cache to false"
            )

    def read(self, index: int, path: Path) -> torch.Tensor:
        """The image, decoded and resized: uint8 [3, H, W]. An image that is not cached is read from its file.

        Raises:
            PipelineError: as for `read_image`.
        """
        cached = self._load(index)
        return self._decode(index, path) if cached is None else cached

    def _load(self, index: int) -> torch.Tensor | None:
        buffer = np.empty(int(self._offsets[index + 1] - self._offsets[index]), dtype=np.uint8)
        checksum = os.pread(self._sums, _WORD, index * _WORD)
        if not any(checksum) or os.preadv(self._pixels, [buffer.data], int(self._offsets[index])) != len(buffer):
            return None
        return self._view(index, buffer) if _checksum(buffer) == checksum else None

    def _decode(self, index: int, path: Path) -> torch.Tensor:
        stored_height, stored_width = self.shapes[index].tolist()
        stored = read_image(path, (stored_width, stored_height))
        height, width = self.sizes[index].tolist()
        buffer = np.zeros(int(self._offsets[index + 1] - self._offsets[index]), dtype=np.uint8)
        image = self._view(index, buffer)
        image.copy_(resized(stored, height, width))
        with suppress(OSError):
            if os.pwrite(self._pixels, buffer.data, int(self._offsets[index])) == len(buffer):
                os.pwrite(self._sums, _checksum(buffer), index * _WORD)
        return image

    def _view(self, index: int, buffer: NDArray[np.uint8]) -> torch.Tensor:
        """The buffer as an image, uint8 [3, H, W], in the memory layout that decoders produce (channels last)."""
        height, width = self.sizes[index].tolist()
        return torch.from_numpy(buffer)[: height * width * 3].view(height, width, 3).permute(2, 0, 1)


def _checksum(buffer: NDArray[np.uint8]) -> bytes:
    """The sum of 64-bit words plus 1: a buffer of zeros, as in a new file, does not have the checksum 0."""
    total = int(buffer.view(np.uint64).sum(dtype=np.uint64))
    return ((total + 1) % 2**64).to_bytes(_WORD, sys.byteorder)


def _identity(images: Sequence[Image], digests: Sequence[str]) -> str:
    """A hash of the files' names and contents, and of what determines the pixels: torch's version, and ours."""
    records = [(image.file_name, image.height, image.width) for image in images]
    return hashlib.sha256(repr((torch.__version__, _PIXELS, records, list(digests))).encode()).hexdigest()[:32]


def _lock_folder(folder: Path) -> int:
    """Creates the folder, and marks it as in use until the returned descriptor is closed in every process."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        os.close(descriptor)  # another process removed the folder in the meantime


def _remove_unused(current: Path) -> None:
    """Removes all folders beside the current one that no process uses."""
    for folder in current.parent.iterdir():
        if folder == current:
            continue
        with suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(folder)
            except BlockingIOError:
                pass  # in use
            finally:
                os.close(descriptor)


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
