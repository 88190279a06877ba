"""The processes that a process has started: whether they are still there, and where they listen."""

import time
from contextlib import suppress

import psutil


def descendants(pid: int) -> list[psutil.Process]:
    """All processes that a process and its child processes have started."""
    return psutil.Process(pid).children(recursive=True)


def command_words(processes: list[psutil.Process]) -> set[str]:
    """The words of the processes' command lines."""
    words: set[str] = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            words.update(process.cmdline())
    return words


def assert_gone(processes: list[psutil.Process], seconds: float = 20.0) -> None:
    """Waits until none of the processes is running."""
    deadline = time.monotonic() + seconds
    while running := [process for process in processes if is_running(process)]:
        assert time.monotonic() < deadline, running
        time.sleep(0.02)


def is_running(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
