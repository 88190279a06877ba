"""Locks of training states, and removal of states that are no longer needed.

The state of a training is the folder `.fcos/training/<key>/`. Beside it, `<key>.lock` is held by the process that uses
the state, and `<key>.launch.lock` by the process that launches several. `<key>.stale` says since when it is known that
nobody continues the training.

A lock file is deleted only by a process that holds it. A process that waits for the deleted file doesn't get a lock of
its own: FileLock opens the path again if the file that it locked has no name any more.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fcos.training.checkpoints import Checkpoint
from pipeline.errors import count_noun

_STALE_SECONDS = 30 * 24 * 3600  # since the last change
# After it was first found stale: a clock that is a month ahead for a while must not remove states.
_GRACE_SECONDS = 7 * 24 * 3600
_USE, _LAUNCH, _STALE = ".lock", ".launch.lock", ".stale"


def state_lock(state: Path) -> FileLock:
    """The lock of a process that reads and writes the state."""
    return _lock(state, _USE)


def launch_lock(state: Path) -> FileLock:
    """The lock of a process that launches the processes of a training."""
    return _lock(state, _LAUNCH)


def _lock(state: Path, suffix: str) -> FileLock:
    state.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(state.with_name(state.name + suffix))


def remove_finished_state(state: Path) -> None:
    """Removes a state and its lock files; does nothing if another process uses them, which removes them in turn."""
    with suppress(Timeout), _exclusive(state):
        Checkpoint(state).clear()


def remove_stale_states(folder: Path, current_key: str) -> str | None:
    """Removes states unchanged for 30 days and lock files without a state, except those that a process uses.

    A state is removed once it has been found stale twice, a week apart.

    Args:
        folder: holds `<key>/`, `<key>.lock`, `<key>.launch.lock` and `<key>.stale` of each training.
        current_key: the training that is about to use its state, which is kept.

    Returns:
        A message about the freed disk space; None if no state was removed.
    """
    names = (path.name.removesuffix(_LAUNCH).removesuffix(_USE).removesuffix(_STALE) for path in folder.iterdir())
    keys = set(names) - {current_key}
    sizes = [size for key in sorted(keys) if (size := _remove_if_stale(folder / key)) is not None]
    if not sizes:
        return None
    trainings = count_noun(len(sizes), "interrupted training")
    return f"removed the states of {trainings}, unchanged for 30 days: {sum(sizes) / 1e6:,.1f} MB"


def _remove_if_stale(state: Path) -> int | None:
    """Returns the removed state's size in bytes; None if there was none, or if it is recent or in use."""
    mark = state.with_name(state.name + _STALE)
    if _is_recent(state):
        mark.unlink(missing_ok=True)
        return None
    with suppress(Timeout), _exclusive(state):
        # Another process may have resumed it meanwhile.
        if state.is_dir() and not _is_recent(state) and _is_known_stale(mark):
            size = sum(path.stat().st_size for path in state.iterdir())
            shutil.rmtree(state)
            mark.unlink()
            return size
        if not state.is_dir():
            mark.unlink(missing_ok=True)
    return None


def _is_known_stale(mark: Path) -> bool:
    """Whether the state was found stale a week ago or longer; otherwise, it is from now on."""
    age = time.time() - mark.stat().st_mtime if mark.is_file() else -1
    if age < 0:  # no mark, or one of a clock that was ahead
        mark.touch()
    return age > _GRACE_SECONDS


def _is_recent(state: Path) -> bool:
    if not state.is_dir():
        return False
    try:
        changed = max(path.stat().st_mtime for path in (state, *state.iterdir()))
    except FileNotFoundError:  # its training is removing it
        return True
    return time.time() - changed <= _STALE_SECONDS


@contextmanager
def _exclusive(state: Path) -> Iterator[None]:
    """Holds both locks of a state.

    Raises:
        Timeout: another process holds one of them.
    """
    with _held(launch_lock(state), state), _held(state_lock(state), state):
        yield


@contextmanager
def _held(lock: FileLock, state: Path) -> Iterator[None]:
    """Holds a lock, and deletes its file at the end if the state doesn't exist."""
    with lock.acquire(timeout=0):
        try:
            yield
        finally:
            if not state.is_dir():
                Path(lock.lock_file).unlink(missing_ok=True)
