"""How a process ends: signals that it listens to, and the death of its parent."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ONE_KEY = 1.0  # seconds within which one Ctrl-C may come twice: from the terminal, and from who started us


def handle_signals(name: str, leave: Callable[[int], NoReturn] = sys.exit) -> "StopRequest":
    """From now on, SIGTERM and Ctrl-C end the stage at once, with one line.

    Args:
        leave: ends the process: sys.exit tidies up, os._exit is sure to come through.

    Returns:
        What knows of the signal that came.
    """
    request = StopRequest()

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        request.number = number
        _say(name, number)
        leave(128 + number)

    for number in _SIGNALS:
        signal.signal(number, stop)
    return request


def exit_stopped(name: str, number: int, more: str = "") -> NoReturn:
    """Ends the stage with a line that says by what signal, and the exit status that a shell gives to that."""
    _say(name, number, more)
    sys.exit(128 + number)


def _say(name: str, number: int, more: str = "") -> None:
    # Not by print: a signal may have come in the middle of another one, which can't be entered twice.
    os.write(sys.stderr.fileno(), f"{name}: stopped by {signal.Signals(number).name}{more}\n".encode())


@dataclass
class StopRequest:
    """The wish that a stage ends, for a body that must not end just anywhere: it asks now and then.

    A second Ctrl-C ends the stage at once.
    """

    number: int | None = None
    pressed: float | None = None  # when Ctrl-C was, first

    def __call__(self) -> bool:
        """Whether there was a signal."""
        return self.number is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this, signals are deferred and nothing else."""
        before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
        if number == signal.SIGINT:
            self.pressed = self.pressed or time.monotonic()
            if time.monotonic() - self.pressed > _ONE_KEY:
                os._exit(128 + number)


def die_with_parent() -> None:
    """Asks Linux for SIGTERM when DVC (or whoever started this) dies, however it dies: an orphan would go on writing
    under the next run."""
    if sys.platform != "linux":
        return
    parent = os.getppid()
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(143)
