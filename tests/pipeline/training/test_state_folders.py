"""States of finished and abandoned trainings are removed with their locks; those of running trainings never."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.training.state_folders import launch_lock, remove_finished_state, remove_stale_states, state_lock

DAY = 24 * 3600


def make_state(folder: Path, key: str, days: float) -> Path:
    state = folder / key
    state.mkdir()
    (state / "state.pt").write_bytes(bytes(1_000_000))
    for path in (state / "state.pt", state):
        os.utime(path, (time.time() - days * DAY,) * 2)
    return state


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def mark_stale(folder: Path, *keys: str, days: float = 8) -> None:
    for key in keys:
        (folder / f"{key}.stale").touch()
        os.utime(folder / f"{key}.stale", (time.time() - days * DAY,) * 2)


def test_only_stale_states_are_removed(tmp_path: Path) -> None:
    recent = make_state(tmp_path, "recent", 29)
    own = make_state(tmp_path, "own", 31)
    running = make_state(tmp_path, "running", 31)
    stale = [make_state(tmp_path, name, 31) for name in ("stale", "too")]
    (tmp_path / "recent.lock").touch()
    mark_stale(tmp_path, "recent", "own", "running", "stale", "too")
    with FileLock(tmp_path / "running.lock"), FileLock(tmp_path / "own.lock"):
        message = remove_stale_states(tmp_path, "own")
    assert message == "removed the states of 2 interrupted trainings, unchanged for 30 days: 2.0 MB"
    assert recent.exists()
    assert own.exists()
    assert running.exists()
    assert not any(path.exists() for path in stale)
    assert [name for name in names(tmp_path) if name.endswith(".stale")] == ["own.stale", "running.stale"]


def test_a_clock_that_is_ahead_for_a_while_removes_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, now = make_state(tmp_path, "key", 1), time.time()
    mark = tmp_path / "key.stale"

    def start_training(days: float) -> str | None:
        """As many days after now, by the clock."""
        monkeypatch.setattr(time, "time", lambda: now + days * DAY)
        new = not mark.exists()
        message = remove_stale_states(tmp_path, "own")
        if new and mark.exists():  # it has the time of this machine's real clock
            os.utime(mark, (now + days * DAY,) * 2)
        return message

    assert [start_training(days) for days in (40, 41, 0)] == [None, None, None]  # right again: nothing is remembered
    assert (state.exists(), mark.exists()) == (True, False)
    assert [start_training(days) for days in (31, 37.9)] == [None, None]
    assert start_training(38.1) == "removed the states of 1 interrupted training, unchanged for 30 days: 1.0 MB"
    assert names(tmp_path) == []


def test_nothing_to_remove_is_not_reported(tmp_path: Path) -> None:
    make_state(tmp_path, "recent", 1)
    assert remove_stale_states(tmp_path, "own") is None


def test_lock_files_are_removed_with_a_stale_state_and_without_one(tmp_path: Path) -> None:
    make_state(tmp_path, "stale", 31)
    make_state(tmp_path, "recent", 1)
    mark_stale(tmp_path, "stale", "gone")
    for name in ("stale.lock", "stale.launch.lock", "gone.lock", "gone.launch.lock", "recent.lock", "own.lock"):
        (tmp_path / name).touch()
    with FileLock(tmp_path / "starting.lock"), FileLock(tmp_path / "launching.launch.lock"):  # no state saved yet
        remove_stale_states(tmp_path, "own")
        assert names(tmp_path) == ["launching.launch.lock", "own.lock", "recent", "recent.lock", "starting.lock"]


@pytest.mark.parametrize("lock", [state_lock, launch_lock])
def test_a_finished_state_goes_with_its_locks_unless_another_process_uses_it(
    tmp_path: Path, lock: Callable[[Path], FileLock]
) -> None:
    state = make_state(tmp_path, "key", 0)
    with lock(state):
        remove_finished_state(state)
        assert (state / "state.pt").is_file()
    remove_finished_state(state)
    assert names(tmp_path) == []


def test_a_state_with_a_persons_file_stays_with_its_locks(tmp_path: Path) -> None:
    state = make_state(tmp_path, "key", 0)
    (state / "notes.txt").touch()
    remove_finished_state(state)
    assert names(state) == ["notes.txt"]
    assert names(tmp_path) == ["key", "key.launch.lock", "key.lock"]


def test_waiting_for_a_deleted_lock_never_lets_two_in(tmp_path: Path) -> None:
    state, inside, overlaps = tmp_path / "key", [], []

    def use() -> None:
        for _ in range(20):
            with state_lock(state).acquire(poll_interval=0.001):
                inside.append(threading.get_ident())
                time.sleep(0.001)
                overlaps.extend(inside[1:])
                inside.pop()
            remove_finished_state(state)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == []
    remove_finished_state(state)
    assert names(tmp_path) == []
