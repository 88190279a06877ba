"""The states of trainings that were interrupted: those that nobody takes up again don't stay for ever."""

import shutil
import time
from pathlib import Path

from filelock import FileLock, Timeout

_FORGOTTEN = 30 * 24 * 3600  # seconds without a change


def remove_stale_states(folder: Path, own: str) -> str | None:
    """Removes states that weren't touched for 30 days, but none whose training runs: it holds the state's lock.

    Args:
        folder: a folder for each training, and beside it a lock of the same name: `<key>/`, `<key>.lock`.
        own: the key of the training that is about to go on from its state.

    Returns:
        A line about what was removed; None where nothing was.
    """
    others = (state for state in sorted(folder.iterdir()) if state.is_dir() and state.name != own)
    old = [state for state in others if _untouched(state) > _FORGOTTEN]
    sizes = [_remove(state) for state in old]
    removed = [size for size in sizes if size is not None]
    if not removed:
        return None
    return (
        f"removed the states of {len(removed)} interrupted trainings that nobody touched for 30 days: "
        f"{sum(removed) / 1e6:,.1f} MB are free again"
    )


def _untouched(state: Path) -> float:
    """Seconds since something in it changed."""
    try:
        return time.time() - max(path.stat().st_mtime for path in (state, *state.iterdir()))
    except FileNotFoundError:  # its training ends just now
        return 0.0


def _remove(state: Path) -> int | None:
    """Returns its size in bytes; None where its training runs."""
    try:
        with FileLock(state.with_suffix(".lock"), timeout=0):
            if _untouched(state) <= _FORGOTTEN:  # it was taken up again in the meantime
                return None
            size = sum(path.stat().st_size for path in state.iterdir())
            shutil.rmtree(state)
            return size
    except Timeout:
        return None
