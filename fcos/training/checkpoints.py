"""Resumable training state on disk: whole, checked, and never another experiment's."""

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

_CHUNK = 2**20  # bytes that are read at once
_CHECKSUM = 4  # bytes of CRC-32 at a file's beginning: it costs training a third of what SHA-256 would


class CheckpointError(RuntimeError):
    """A state can't be written; the message names the folder, the room that is needed, and what to do."""


class Checkpoint:
    """The newest state of one training, the one before it in case the newest is damaged, and the best weights.

    Training waits for a copy in the host's memory alone; one thread then writes, in order. What it meets is raised
    by `check` and `wait`, not by `save`: of several processes only the first one saves, and all have to stop.

    Args:
        folder: this training's own; its name must come from everything that determines the result.
        tell: is given a line about each damaged file.
    """

    def __init__(self, folder: Path, tell: Callable[[str], object] = warnings.warn) -> None:
        self.folder, self.tell = folder, tell
        self.newest, self.previous = folder / "state.pt", folder / "state.previous.pt"
        self.best = folder / "best.pt"
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: dict[Path, Future[None]] = {}

    @property
    def writing(self) -> bool:
        """Whether the last state is still being written, so that a save would wait for it."""
        return self.newest in self._pending and not self._pending[self.newest].done()

    def save(self, state: dict[str, Any]) -> None:
        """Copies the state and returns; the copy is written meanwhile.

        Where the last one is still being written, waits: no more than one copy is held. Tuples aren't copied.
        """
        self._settle(self.newest)
        self._begin(self.newest, copied(state), _arrival())

    def save_best(self, state: dict[str, Any]) -> None:
        """Keeps the best weights so far, already in the host's memory and never changed again."""
        self._settle(self.best)
        self._begin(self.best, state, lambda: None)

    def check(self) -> None:
        """Looks whether something could not be written, without waiting.

        Raises:
            CheckpointError: so it is; the state before is whole.
        """
        for future in self._pending.values():
            if future.done():
                future.result()

    def wait(self) -> None:
        """Returns when all that was saved is on the disk.

        Raises:
            CheckpointError: it can't be written; the state before is whole.
        """
        for future in self._pending.values():
            future.result()

    def load(self) -> dict[str, Any] | None:
        """The newest undamaged state, on the CPU; None where there is none."""
        wait(self._pending.values())
        found = [path for path in (self.newest, self.previous) if path.is_file()]
        damaged: list[Path] = []
        for path in found:
            state = _read(path)
            if state is not None:
                if damaged:
                    self.tell(f"{damaged[0]}: damaged, its checksum is wrong; going on from the state before it")
                return state
            damaged.append(path)
        if damaged:
            names = " and ".join(path.name for path in damaged)
            self.tell(f"{self.folder}: {names} damaged, their checksum is wrong; training starts anew")
        return None

    def load_best(self) -> dict[str, Any] | None:
        """The best weights so far, on the CPU; None where there are none."""
        wait(self._pending.values())
        best = _read(self.best) if self.best.is_file() else None
        if best is None and self.best.is_file():
            self.tell(f"{self.best}: damaged, its checksum is wrong; the best weights are those from here on")
        return best

    def clear(self) -> None:
        """Removes what is no longer needed once the result is written."""
        wait(self._pending.values())
        self._pending.clear()
        for path in (self.newest, self.previous, self.best):
            path.unlink(missing_ok=True)
            _partial(path).unlink(missing_ok=True)
        with suppress(OSError):  # it isn't there, or someone put a file of theirs into it
            self.folder.rmdir()

    def _settle(self, path: Path) -> None:
        wait([self._pending[path]] if path in self._pending else [])

    def _begin(self, path: Path, state: dict[str, Any], arrived: Callable[[], None]) -> None:
        if path in self._pending and self._pending[path].exception():
            return  # still to be told by `check` or `wait`
        self._pending[path] = self._writer.submit(self._write, path, state, arrived)

    def _write(self, path: Path, state: dict[str, Any], arrived: Callable[[], None]) -> None:
        """Writes beside, flushes, renames: a crash at any moment leaves a whole state."""
        arrived()
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
            raise CheckpointError(self._told(error, state)) from None

    def _told(self, error: OSError, state: dict[str, Any]) -> str:
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.is_dir())
        return (
            f"{self.folder}: the state of the training can't be written: {error.strerror or error}; it needs "
            f"{_megabytes(_bytes(state))}, and {_megabytes(shutil.disk_usage(there).free)} are free there; make room "
            "and start again: training goes on from the state before it"
        )


def copied(value: Any) -> Any:
    """The same dictionaries and lists with every tensor copied to the host's memory; tuples are left as they are.

    A GPU's tensors may still be on their way: it copies them in turn with its other work.
    """
    match value:
        case Tensor():
            return value.detach().to("cpu", copy=True, non_blocking=True)
        case dict():
            return {key: copied(item) for key, item in value.items()}
        case list():
            return [copied(item) for item in value]
    return value


def _arrival() -> Callable[[], None]:
    """What returns once the copies made so far are there."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return lambda: None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event.synchronize


class _Checking:
    """A file that torch.save writes into; all goes into the checksum too."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.checksum = file, 0
        self.problem: OSError | None = None

    def write(self, data: memoryview) -> int:
        # An exception wouldn't get through torch's C++, which then raises one of its own that says nothing.
        if self.problem is None:
            try:
                self.file.write(data)
                self.checksum = zlib.crc32(data, self.checksum)
            except OSError as error:
                self.problem = error
        return len(data)

    def flush(self) -> None:
        """Nothing yet: the checksum is still to come."""


def _write(path: Path, state: dict[str, Any]) -> None:
    """Checksum, then what torch.save makes; on the disk when it returns."""
    with path.open("wb") as file:
        file.write(bytes(_CHECKSUM))
        checking = _Checking(file)
        with _no_second_checksum():
            torch.save(state, checking)  # type: ignore[arg-type] # write and flush are all it uses
        if checking.problem:
            raise checking.problem
        file.seek(0)
        file.write(_packed(checking.checksum))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _no_second_checksum() -> Iterator[None]:
    """Torch's own takes as long as ours, and isn't looked at when a state is read."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def _packed(checksum: int) -> bytes:
    return checksum.to_bytes(_CHECKSUM, "little")


def _read(path: Path) -> dict[str, Any] | None:
    """What `_write` wrote; None where it is damaged."""
    try:
        with path.open("rb") as file:
            written, checksum = file.read(_CHECKSUM), 0
            while data := file.read(_CHUNK):
                checksum = zlib.crc32(data, checksum)
            if _packed(checksum) != written:
                return None
            file.seek(_CHECKSUM)
            state: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
            return state
    except OSError:
        return None


def _flush(folder: Path) -> None:
    """Makes renames in a folder last through a power cut, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _partial(path: Path) -> Path:
    return path.with_suffix(".partial")


def _bytes(value: Any) -> int:
    """Of the tensors in it."""
    match value:
        case Tensor():
            return value.nbytes
        case dict():
            return sum(_bytes(item) for item in value.values())
        case list():
            return sum(_bytes(item) for item in value)
    return 0


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
