"""Resumable training state on disk, written atomically and verified by a checksum."""

import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

_CHUNK = 2**20  # bytes read at a time
_CHECKSUM = 4  # bytes of the CRC-32 at the start of a file; CRC-32 takes a third of SHA-256's time


class CheckpointError(RuntimeError):
    """A state can't be written.

    Args:
        folder: the folder of the state.
        reason: the operating system's message.
        needed: size of the state in bytes.
        free: free bytes on the disk of the folder.
    """

    def __init__(self, folder: Path, reason: str, *, needed: int, free: int) -> None:
        self.folder, self.reason, self.needed, self.free = folder, reason, needed, free
        super().__init__(
            f"{folder}: the training state can't be written: {reason}; it needs {_megabytes(needed)}, "
            f"and {_megabytes(free)} are free there"
        )


class Checkpoint:
    """The newest state of a training, the state before it in case the newest is damaged, and the best weights.

    Saving blocks training only while the state is copied to the host's memory; a single thread then writes the copies
    in order. `check` and `wait` raise the thread's errors. `save` does not: only process 0 saves, but all processes
    must stop together.

    Args:
        folder: used by this training alone; derive its name from everything that determines the result.
        warn: called with one line for each damaged file.
    """

    def __init__(self, folder: Path, warn: Callable[[str], object] = warnings.warn) -> None:
        self.folder, self.warn = folder, warn
        self.newest, self.previous = folder / "state.pt", folder / "state.previous.pt"
        self.best = folder / "best.pt"
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: dict[Path, Future[None]] = {}

    @property
    def writing(self) -> bool:
        """Whether the last state is still being written; `save` would wait for it."""
        return self.newest in self._pending and not self._pending[self.newest].done()

    def save(self, state: dict[str, Any]) -> None:
        """Copies the state to the host's memory and returns; a thread writes the copy.

        Waits if the last state is still being written, so that at most one copy is held. Tuples are not copied.
        """
        self._settle(self.newest)
        self._begin(self.newest, copy_to_host(state), _copy_event())

    def save_best(self, state: dict[str, Any]) -> None:
        """Saves the best weights so far. They must be in the host's memory and must not change afterwards."""
        self._settle(self.best)
        self._begin(self.best, state, lambda: None)

    def check(self) -> None:
        """Raises the error of a failed write, without waiting for writes in progress.

        Raises:
            CheckpointError: a state could not be written; the state before it is intact.
        """
        for future in self._pending.values():
            if future.done():
                future.result()

    def wait(self) -> None:
        """Waits until everything saved is on the disk.

        Raises:
            CheckpointError: a state could not be written; the state before it is intact.
        """
        for future in self._pending.values():
            future.result()

    def load(self) -> dict[str, Any] | None:
        """Returns the newest undamaged state, on the CPU, or None."""
        wait(self._pending.values())
        paths = [path for path in (self.newest, self.previous) if path.is_file()]
        damaged: list[Path] = []
        for path in paths:
            state = _read(path)
            if state is not None:
                if damaged:
                    self.warn(f"{damaged[0]}: damaged (wrong checksum); training resumes from the state before it")
                return state
            damaged.append(path)
        if damaged:
            names = " and ".join(path.name for path in damaged)
            self.warn(f"{self.folder}: {names} damaged (wrong checksum); training starts from the beginning")
        return None

    def load_best(self) -> dict[str, Any] | None:
        """Returns the best weights so far, on the CPU, or None."""
        wait(self._pending.values())
        best = _read(self.best) if self.best.is_file() else None
        if best is None and self.best.is_file():
            self.warn(f"{self.best}: damaged (wrong checksum); the best weights are chosen again from here on")
        return best

    def clear(self) -> None:
        """Removes all files of the state; call this once the result is written."""
        wait(self._pending.values())
        self._pending.clear()
        for path in (self.newest, self.previous, self.best):
            path.unlink(missing_ok=True)
            _partial(path).unlink(missing_ok=True)
        with suppress(OSError):  # the folder does not exist, or holds a file that is not ours
            self.folder.rmdir()

    def _settle(self, path: Path) -> None:
        wait([self._pending[path]] if path in self._pending else [])

    def _begin(self, path: Path, state: dict[str, Any], wait_for_copy: Callable[[], None]) -> None:
        if path in self._pending and self._pending[path].exception():
            return  # `check` or `wait` raises it
        self._pending[path] = self._writer.submit(self._write, path, state, wait_for_copy)

    def _write(self, path: Path, state: dict[str, Any], wait_for_copy: Callable[[], None]) -> None:
        """Writes to a temporary file, flushes it and renames it: a crash at any moment leaves an intact state."""
        wait_for_copy()
        partial = _partial(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(partial, state)
            if path == self.newest and path.exists():
                path.replace(self.previous)
            partial.replace(path)
            _flush(self.folder)
        except OSError as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.is_dir())
            free = shutil.disk_usage(existing).free
            reason = error.strerror or str(error)
            raise CheckpointError(self.folder, reason, needed=_count_bytes(state), free=free) from None


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Writes a state to a file of its own, with a checksum; after an error there is no partial file."""
    partial = _partial(path)
    try:
        _write(partial, state)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any] | None:
    """Reads what `write_state` wrote, on the CPU; None if the file is damaged. No code of the file runs."""
    return _read(path)


def copy_to_host(value: Any) -> Any:
    """Copies nested dictionaries and lists, and every tensor in them to the host's memory; tuples are not copied.

    Copies from a GPU are asynchronous: `_copy_event` waits for them.
    """
    match value:
        case Tensor():
            return value.detach().to("cpu", copy=True, non_blocking=True)
        case dict():
            return {key: copy_to_host(item) for key, item in value.items()}
        case list():
            return [copy_to_host(item) for item in value]
    return value


def _copy_event() -> Callable[[], None]:
    """Returns a function that waits for the copies started so far."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event.synchronize


class _ChecksumWriter:
    """A file for torch.save that computes the checksum of what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.checksum = file, 0
        self.error: OSError | None = None

    def write(self, data: memoryview) -> int:
        # Not raised here: torch's C++ code would replace it by an exception without the reason.
        if self.error is None:
            try:
                self.file.write(data)
                self.checksum = zlib.crc32(data, self.checksum)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Does nothing: `_write` flushes the file after writing the checksum."""


def _write(path: Path, state: dict[str, Any]) -> None:
    """Writes the checksum and torch.save's output; both are on the disk when it returns."""
    with path.open("wb") as file:
        file.write(bytes(_CHECKSUM))
        writer = _ChecksumWriter(file)
        with _without_torch_crc32():
            torch.save(state, writer)  # type: ignore[arg-type] # torch.save calls write and flush only
        if writer.error:
            raise writer.error
        file.seek(0)
        file.write(_packed(writer.checksum))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _without_torch_crc32() -> Iterator[None]:
    """Disables torch's CRC-32, which takes as long as ours and is not verified when a file is read."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _packed(checksum: int) -> bytes:
    return checksum.to_bytes(_CHECKSUM, "little")


def _read(path: Path) -> dict[str, Any] | None:
    """Reads what `_write` wrote; None if the file is damaged."""
    try:
        with path.open("rb") as file:
            written, checksum = file.read(_CHECKSUM), 0
            while data := file.read(_CHUNK):
                checksum = zlib.crc32(data, checksum)
            if _packed(checksum) != written:
                return None
            file.seek(_CHECKSUM)
            state = torch.load(file, weights_only=True, map_location="cpu")
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - torch raises many types for bytes that it didn't write, such as four zeros
        return None
    return state if isinstance(state, dict) else None


def _flush(folder: Path) -> None:
    """Flushes a folder, so that renames in it survive a power failure (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _partial(path: Path) -> Path:
    return path.with_suffix(".partial")


def _count_bytes(value: Any) -> int:
    """Total size of the tensors in nested dictionaries and lists."""
    match value:
        case Tensor():
            return value.nbytes
        case dict():
            return sum(_count_bytes(item) for item in value.values())
        case list():
            return sum(_count_bytes(item) for item in value)
    return 0


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
