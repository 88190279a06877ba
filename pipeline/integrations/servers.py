"""Runs local web applications as child processes, and finds ports for them."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.errors import PipelineError
from pipeline.integrations import access
from pipeline.workspace import state_dir

LOOPBACK = "127.0.0.1"
START_SECONDS = 120.0
# The script that starts a server and watches over its users.
SUPERVISOR = (sys.executable, "-I", "-S", str(Path(__file__).with_name("supervisor.py")))


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
def run_server(
    name: str, app: str, port: int, *, page: str = "/", fragment: str = "", environment: Mapping[str, str]
) -> Iterator[Server]:
    """Runs a web application for this user alone, yields it once it listens, and stops it with its child processes.

    Its output goes to `.fcos/NAME.log`, where tracebacks of interrupted requests don't disturb.

    Args:
        app: a function that returns an ASGI application, as MODULE:FUNCTION; `owner_only` must wrap its result.
        page: the path that people open, with its query.
        fragment: what follows the token in the address, from a `#` on; a page reads it, and the server doesn't.

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
    separator = "&" if "?" in page else "?"
    address = f"http://{LOOPBACK}:{port}{page}{separator}{access.PARAMETER}={token}{fragment}"
    # The token is not on the command line, which other users can read.
    variables = {**environment, access.TOKEN_VARIABLE: token}
    with (
        log.open("wb") as log_file,
        supervised(command, variables, stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file) as process,
    ):
        _wait_until_ready(name, process, port, log)
        yield Server(name, address, process)


@contextmanager
def supervised(
    command: Sequence[str], environment: Mapping[str, str], **options: Any
) -> Iterator[subprocess.Popen[Any]]:
    """Runs a command that ends, with all its child processes, when the context does or when this process is killed.

    The command runs in a new session, so that Ctrl-C in a terminal reaches only this process, which then stops it.

    Args:
        environment: variables in addition to those of this process.
        options: of subprocess.Popen.
    """
    read, write = os.pipe()
    with exit_on_signals(), os.fdopen(write, "wb") as user, os.fdopen(read, "rb") as users:
        process = subprocess.Popen(
            [*SUPERVISOR, str(read), *command],
            env={**os.environ, **environment},
            pass_fds=[read],
            start_new_session=True,
            **options,
        )
        with process:
            users.close()
            try:
                yield process
            finally:
                user.close()


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


@contextmanager
def exit_on_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP (a closed terminal) raise SystemExit, so that `finally` clauses stop child processes."""
    signals = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        signals = []

    def exit_process(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    for number in signals:
        signal.signal(number, exit_process)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)


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
