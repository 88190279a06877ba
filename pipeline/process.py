"""How a stage's process uses cores and memory, and how it ends: after a signal, or when its parent process dies."""

import atexit
import ctypes
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # SIGHUP: its terminal was closed
# Iterations for which OpenMP's threads spin while they wait, before they sleep. libgomp's default is 300,000.
_SPIN_COUNT = "1000"
# Parameters of glibc's mallopt (malloc.h), and the size in bytes from which an allocation is still mapped by itself.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_IN_HEAP = 1 << 30
_FLUSH_FAILED = 120  # the interpreter's exit status where its output can't be written
# Seconds within which two SIGINT count as one Ctrl-C: the terminal sends it, and the parent process may pass it on.
_SAME_CTRL_C = 1.0


def limit_spinning() -> None:
    """Makes OpenMP's threads sleep soon when they wait for each other; call it before torch is imported.

    Where other processes use the same cores, a thread that waits for a suspended one otherwise spins for milliseconds
    in each operation (docs/performance.md). GOMP_SPINCOUNT and OMP_WAIT_POLICY are kept if they are set.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def postpone_collection() -> None:
    """Switches garbage collection off, for imports; call it before them, and `resume_collection` after them.

    The modules of torch and MLflow are millions of objects, among which the collector would search again and again, in
    vain: a fifth of the time of their imports.
    """
    gc.disable()


def resume_collection() -> None:
    """Ends `postpone_collection`, and leaves the objects of the imported modules out of later collections."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def keep_freed_memory() -> None:
    """Makes the C library keep freed memory for the next allocation instead of returning it to the system.

    The tensors of a step on a CPU are large, so that glibc maps each anew, and the system clears each page again: up to
    28 % of a step (docs/performance.md). Settings in the environment are kept; other C libraries are left alone.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, -1)  # never
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)


@contextmanager
def quick_exit() -> Iterator[None]:
    """Ends the process at the end of the context, as the interpreter would, but leaves its memory to the system.

    The interpreter would free the millions of objects of torch's and MLflow's modules one by one, which takes a second.
    Before that it waits for threads, calls the exit handlers and flushes the output; so does this. An exception other
    than SystemExit is left to the interpreter.
    """
    status: object = 0
    try:
        yield
    except SystemExit as ended:
        status = 0 if ended.code is None else ended.code
    if not isinstance(status, int):
        if sys.stderr is not None:  # as without a file descriptor
            sys.stderr.write(f"{status}\n")
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except OSError as error:  # a full disk, a closed pipe
            with suppress(OSError, AttributeError):
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
            status = status or _FLUSH_FAILED
    os._exit(status & 0xFF)


@dataclass
class StopRequest:
    """Records SIGTERM, SIGHUP or Ctrl-C, for work that may only end at certain points: there it calls the object.

    A second Ctrl-C ends the process at once.
    """

    number: int | None = None  # of the first signal
    first_ctrl_c: float | None = None  # time.monotonic()

    def __call__(self) -> bool:
        """Whether a signal has arrived."""
        return self.number is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within this context, signals are only recorded."""
        handlers = {number: signal.signal(number, self._record) for number in stop_signals()}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _record(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
        if number == signal.SIGINT:
            self.first_ctrl_c = self.first_ctrl_c or time.monotonic()
            if time.monotonic() - self.first_ctrl_c > _SAME_CTRL_C:
                os._exit(128 + number)


def handle_signals(name: str, leave: Callable[[int], NoReturn] = sys.exit) -> StopRequest:
    """Makes SIGTERM, SIGHUP and Ctrl-C end the process with one line.

    Args:
        name: of the stage, which begins the line; empty: no line.
        leave: ends the process. sys.exit runs `finally` clauses; os._exit works while a module is being imported, too.

    Returns:
        The request that records the signal.
    """
    request = StopRequest()

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        request.number = number
        if name:
            _write_line(name, number)
        leave(128 + number)

    for number in stop_signals():
        signal.signal(number, stop)
    return request


@contextmanager
def handling_signals(name: str) -> Iterator[None]:
    """Within this context, SIGTERM, SIGHUP and Ctrl-C end the process as `handle_signals` says."""
    handlers = {number: signal.getsignal(number) for number in stop_signals()}
    handle_signals(name)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def stop_signals() -> list[signal.Signals]:
    """The signals that stop this process: SIGTERM, SIGINT, and SIGHUP except under `nohup`."""
    return [number for number in _SIGNALS if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def exit_stopped(name: str, number: int, details: str = "") -> NoReturn:
    """Exits with a line that names the signal, and with the status that shells give to it."""
    _write_line(name, number, details)
    sys.exit(128 + number)


def _write_line(name: str, number: int, details: str = "") -> None:
    # Not print, which isn't reentrant: the signal may have interrupted another print.
    with suppress(OSError):  # the terminal may be closed
        os.write(sys.stderr.fileno(), f"{name}: stopped by {signal.Signals(number).name}{details}\n".encode())


def die_with_parent(parent: int | None = None) -> None:
    """Makes Linux send SIGTERM when the parent process (usually DVC) dies.

    Otherwise the orphan would write files while the next run writes them too.

    Args:
        parent: its process id, if it can be known; it may have died already. None: the present parent's.
    """
    parent = parent or os.getppid()
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # the parent died before the call
        sys.exit(128 + signal.SIGTERM)
