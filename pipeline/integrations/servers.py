"""Servers that other programs bring, run as our children: started, awaited, and stopped with all they started."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pipeline.errors import PipelineError
from pipeline.workspace import state_dir

LOOPBACK = "127.0.0.1"
START_SECONDS = 120.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Server:
    name: str
    address: str  # of the page to look at
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Returns on Ctrl-C.

        Raises:
            PipelineError: the server ended by itself.
        """
        with suppress(KeyboardInterrupt):
            status = self.process.wait()
            raise PipelineError(f"{self.name}: its server ended with status {status}; its own lines above say why")


@contextmanager
def run_server(
    name: str, command: Sequence[str], *, probe: str, address: str, environment: Mapping[str, str]
) -> Iterator[Server]:
    """Runs a server and yields it as soon as the URL `probe` answers.

    It gets a session of its own, so that a terminal's Ctrl-C reaches us alone and the end is ours to order. What it
    says goes to `.fcos/NAME.log`: a request cut short at the end is no traceback for the person who ended it.

    Raises:
        PipelineError: it ends before it answers, or doesn't answer within two minutes.
    """
    log = state_dir() / f"{name.lower()}.log"
    with exit_on_sigterm(), log.open("wb") as said:
        process = subprocess.Popen(
            list(command),
            env={**os.environ, **environment},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            _await_answer(name, process, probe, log)
            yield Server(name, address, process)
        finally:
            _stop(process)


def _await_answer(name: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise PipelineError(f"{name}: no answer at {url}; {log} says why")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the whole group: politely, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Lets SIGTERM end us as Ctrl-C does, through every `finally`: else what we started would live on."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def find_free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free_port(port: int) -> None:
    """Raises PipelineError when something listens on the port: servers say so late, or join it silently."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # else one that closed a minute ago still counts
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise PipelineError(
                f"{LOOPBACK}:{port}: {reason[:1].lower()}{reason[1:]}; stop its owner, or choose another --port"
            ) from None
