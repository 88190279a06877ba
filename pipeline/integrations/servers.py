"""Runs local web applications as child processes, and finds ports for them."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from pipeline.errors import PipelineError
from pipeline.integrations import access
from pipeline.workspace import state_dir

LOOPBACK = "127.0.0.1"
START_SECONDS = 120.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    address: str  # URL of its page, with the token
    process: subprocess.Popen[bytes]

    def wait(self) -> None:
        """Waits for Ctrl-C.

        Raises:
            PipelineError: the server ended.
        """
        with suppress(KeyboardInterrupt):
            status = self.process.wait()
            raise PipelineError(
                f"{self.name}: the server ended with status {status}; see .fcos/{self.name.lower()}.log"
            )


@contextmanager
def run_server(name: str, app: str, port: int, *, page: str = "/", environment: Mapping[str, str]) -> Iterator[Server]:
    """Runs a web application for this user alone, yields it once it listens, and stops it with its child processes.

    The server runs in a new session, so that Ctrl-C in a terminal reaches only this process, which then stops the
    server. Its output goes to `.fcos/NAME.log`, where tracebacks of interrupted requests don't disturb.

    Args:
        app: a function that returns an ASGI application, as MODULE:FUNCTION; `owner_only` must wrap its result.
        page: the path that people open.

    Raises:
        PipelineError: the port is in use, the server ends before it responds, or doesn't respond within two minutes.
    """
    require_free_port(port)
    token = secrets.token_urlsafe(32)
    command = [sys.executable, "-m", "uvicorn", "--factory", app, "--app-dir", str(Path(__file__).resolve().parents[2])]
    command += ["--host", LOOPBACK, "--port", str(port), "--log-level", "warning", "--no-proxy-headers"]
    command += ["--workers", "1"]  # WEB_CONCURRENCY would start several, and FiftyOne keeps its state in one
    command += ["--timeout-graceful-shutdown", "1"]  # pages keep a connection open for events
    log = state_dir() / f"{name.lower()}.log"
    with exit_on_sigterm(), log.open("wb") as log_file:
        process = subprocess.Popen(
            command,
            # Not on the command line, which other users can read.
            env={**os.environ, **environment, access.TOKEN_VARIABLE: token},
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
        )
        address = f"http://{LOOPBACK}:{port}{page}"
        try:
            _wait_until_ready(name, process, port, log)
            yield Server(name, f"{address}?{access.PARAMETER}={token}", process)
        finally:
            _stop(process)


def _wait_until_ready(name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Waits until the server listens, which it does once its application is ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((LOOPBACK, port), timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise PipelineError(f"{name}: no response at {LOOPBACK}:{port}; see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Sends SIGTERM to the whole process group, then SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM raise SystemExit, so that `finally` clauses stop the child processes."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def exit_process(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, exit_process)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def find_free_port() -> int:
    """A port on which no program listens at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def require_free_port(port: int) -> None:
    """Raises PipelineError if a program listens on the port: servers report that late, or not at all."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port closed a minute ago is free
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            reason = error.strerror or str(error)
            raise PipelineError(
                f"{LOOPBACK}:{port}: {reason[:1].lower()}{reason[1:]}; stop that program, or choose another --port"
            ) from None
