"""Images decoded and resized once, and kept on disk for later epochs and trainings."""

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
import torchvision
from numpy.typing import NDArray

from fcos.config import InputSize
from pipeline.data.annotations import Image
from pipeline.data.images import read_image, resized
from pipeline.errors import PipelineError
from pipeline.files import remove

_WORD = 8  # bytes; checksums are sums of such, so each image begins at a whole one


class ImageCache:
    """A data set's images at one size, as raw RGB in one file, each at a place known from the start.

    Any number of processes may read and write at once: who comes first writes an image and then its checksum, by
    which it counts as there. So a process that is killed between the two, or a machine that goes down before all of it
    is on the disk, leaves an image that is made anew. On a disk that fills up later, images stay out; nothing else.

    It lies in `<store>/<data set>/<names, sizes and times of its files>/<size>`. Opening it removes those of the same
    data set whose files were others, unless another process has them open.

    Args:
        store: folder of all caches.
        raw: folder of the image files, named as the data set.
        images: all that could be asked for, by their place in here.

    Raises:
        PipelineError: an image file isn't there.
    """

    def __init__(self, store: Path, raw: Path, images: Sequence[Image], input_size: InputSize) -> None:
        self.shapes = np.array([(image.height, image.width) for image in images], dtype=np.int64)
        self.sizes = np.array([input_size.resized(image.height, image.width) for image in images], dtype=np.int64)
        words = -(-self.sizes.prod(axis=1) * 3 // _WORD)
        self._starts = np.concatenate([[0], words.cumsum() * _WORD])
        kind = "letterbox" if input_size.letterbox else "sides"
        files = store / raw.name / _identity(raw, images)
        lock = _held(files)
        _clear(files)
        self.folder = files / f"{kind}-{input_size.size[0]}-{input_size.size[1]}"
        self.folder.mkdir(exist_ok=True)
        # Descriptors, and no memory map: reading at a place needs none, and a full disk is an error instead of a crash.
        # Processes forked off share them, and with them the lock.
        self._pixels, self._sums = (os.open(self.folder / name, os.O_RDWR | os.O_CREAT) for name in ("pixels", "sums"))
        os.ftruncate(self._sums, len(images) * _WORD)
        weakref.finalize(self, _close, lock, self._pixels, self._sums)

    def check_free_space(self, rows: NDArray[np.int64]) -> None:
        """Makes sure that these images fit onto the disk, as far as they aren't there yet.

        Raises:
            PipelineError: what is needed, and what is free.
        """
        sums = np.fromfile(self.folder / "sums", dtype=np.uint64)
        needed = int((np.diff(self._starts)[rows] * (sums[rows] == 0)).sum())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise PipelineError(
                f"machine.cache: {self.folder} needs {needed / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free "
                "there: make room, or set machine.cache to false"
            )

    def read(self, row: int, path: Path) -> torch.Tensor:
        """An image, decoded and resized: uint8 [3, H, W].

        Raises:
            PipelineError: as `read_image`; or the file isn't as large as its annotations say.
        """
        kept = self._kept(row)
        return self._made(row, path) if kept is None else kept

    def _kept(self, row: int) -> torch.Tensor | None:
        buffer = np.empty(int(self._starts[row + 1] - self._starts[row]), dtype=np.uint8)
        told = os.pread(self._sums, _WORD, row * _WORD)
        if not any(told) or os.preadv(self._pixels, [buffer.data], int(self._starts[row])) != len(buffer):
            return None
        return self._image(row, buffer) if _checksum(buffer) == told else None

    def _made(self, row: int, path: Path) -> torch.Tensor:
        stored = read_image(path)
        shape = tuple(self.shapes[row].tolist())
        if stored.shape[-2:] != shape:
            raise PipelineError(
                f"{path} has {stored.shape[-1]}×{stored.shape[-2]} pixels, but its annotations are for "
                f"{shape[1]}×{shape[0]}: run `dvc repro -f convert`"
            )
        height, width = self.sizes[row].tolist()
        buffer = np.zeros(int(self._starts[row + 1] - self._starts[row]), dtype=np.uint8)
        image = self._image(row, buffer)
        image.copy_(resized(stored, height, width))
        with suppress(OSError):
            if os.pwrite(self._pixels, buffer.data, int(self._starts[row])) == len(buffer):
                os.pwrite(self._sums, _checksum(buffer), row * _WORD)
        return image

    def _image(self, row: int, buffer: NDArray[np.uint8]) -> torch.Tensor:
        """A view, its colors side by side as decoders leave them."""
        height, width = self.sizes[row].tolist()
        return torch.from_numpy(buffer)[: height * width * 3].view(height, width, 3).permute(2, 0, 1)


def _checksum(buffer: NDArray[np.uint8]) -> bytes:
    """Never of zeros alone for a buffer of zeros, which is what a file holds before it is written."""
    total = int(buffer.view(np.uint64).sum(dtype=np.uint64))
    return ((total + 1) % 2**64).to_bytes(_WORD, sys.byteorder)


def _identity(raw: Path, images: Sequence[Image]) -> str:
    """Tells these files from all others, and how they are resized from how another version would."""
    told = hashlib.sha256(torchvision.__version__.encode())
    for image in images:
        try:
            status = (raw / image.file_name).stat()
        except FileNotFoundError:
            raise PipelineError(f"{raw / image.file_name}: no such file") from None
        told.update(repr((image.file_name, image.height, image.width, status.st_size, status.st_mtime_ns)).encode())
    return told.hexdigest()[:32]


def _held(folder: Path) -> int:
    """Makes a folder, and marks it as in use for as long as the descriptor is open in any process."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        os.close(descriptor)  # it was being removed


def _clear(kept: Path) -> None:
    """Removes all folders beside this one that nobody uses."""
    for folder in kept.parent.iterdir():
        if folder == kept:
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
