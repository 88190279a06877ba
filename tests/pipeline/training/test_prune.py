"""States that nobody takes up again are removed; those of running trainings never."""

import os
import time
from pathlib import Path

from filelock import FileLock

from pipeline.training.prune import remove_stale_states

DAY = 24 * 3600


def state(folder: Path, key: str, days: float) -> Path:
    made = folder / key
    made.mkdir()
    (made / "state.pt").write_bytes(bytes(1_000_000))
    for path in (made / "state.pt", made):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return made


def test_only_what_was_forgotten_is_removed(tmp_path: Path) -> None:
    recent = state(tmp_path, "recent", 29)
    own = state(tmp_path, "own", 31)
    running = state(tmp_path, "running", 31)
    forgotten = [state(tmp_path, name, 31) for name in ("forgotten", "too")]
    (tmp_path / "recent.lock").touch()
    with FileLock(tmp_path / "running.lock"), FileLock(tmp_path / "own.lock"):
        told = remove_stale_states(tmp_path, "own")
    assert told == (
        "removed the states of 2 interrupted trainings that nobody touched for 30 days: 2.0 MB are free again"
    )
    assert recent.exists()
    assert own.exists()
    assert running.exists()
    assert not any(path.exists() for path in forgotten)


def test_nothing_to_remove_is_not_told(tmp_path: Path) -> None:
    state(tmp_path, "recent", 1)
    assert remove_stale_states(tmp_path, "own") is None
