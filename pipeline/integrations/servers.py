"""Runs local web applications as child processes, and finds ports for them."""

import errno
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
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from types import FrameType
from typing import Any, BinaryIO

from pipeline.errors import PipelineError
from pipeline.integrations import access
from pipeline.workspace import state_dir

LOOPBACK = "127.0.0.1"
LOOPBACK_ADDRESSES = (LOOPBACK, "::1")  # those of which `access` accepts the Host header
START_SECONDS = 120.0
# The script that starts a server and watches over its users.
SUPERVISOR = (sys.executable, "-I", "-S", str(Path(__file__).with_name("supervisor.py")))


@dataclass(frozen=True)
class Server:
    """A running server."""

    name: str
    address: str  # URL of its page, with the token if there is one
    process: subprocess.Popen[bytes]
    log: str  # where to look if it ends

    def wait(self) -> None:
        """Waits for Ctrl-C.

        Raises:
            PipelineError: the server ended.
        """
        with suppress(KeyboardInterrupt):
            status = self.process.wait()
            raise PipelineError(f"{self.name}: the server ended with status {status}{self.log}")


@contextmanager
def run_server(
    name: str, app: str, port: int, *, page: str = "/", fragment: str = "", environment: Mapping[str, str]
) -> Iterator[Server]:
    """Runs a web application for this user alone, yields it once it listens, and stops it with its child processes.

    Args:
        app: a function that returns an ASGI application, as MODULE:FUNCTION; `owner_only` must wrap its result.
        page: the path that people open, with its query.
        fragment: what follows the token in the address, from a `#` on; a page reads it, and the server doesn't.

    Raises:
        PipelineError: as for `run_application`.
    """
    token = secrets.token_urlsafe(32)
    separator = "&" if "?" in page else "?"
    # The token is not on the command line, which other users can read.
    variables = {**environment, access.TOKEN_VARIABLE: token}
    with run_application(name, app, LOOPBACK, port, environment=variables) as server:
        path = f"{page}{separator}{access.PARAMETER}={token}{fragment}"
        yield replace(server, address=f"{server.address.removesuffix('/')}{path}")


@contextmanager
def run_application(name: str, app: str, host: str, port: int, *, environment: Mapping[str, str]) -> Iterator[Server]:
    """Runs a web application, yields it once it listens, and stops it with its child processes.

    Its output goes to `.fcos/NAME.log`, where tracebacks of interrupted requests don't disturb; outside a project, it
    is kept only until the server ends.

    Args:
        app: a function that returns an ASGI application, as MODULE:FUNCTION. It may end the process with a line on
            standard error that starts with `fcos: `, which becomes the PipelineError.
        host: the address to listen on.

    Raises:
        PipelineError: the port is in use, the server ends before it responds, or doesn't respond within two minutes.
    """
    require_free_port(port, host)
    command = [sys.executable, "-m", "uvicorn", "--factory", app, "--app-dir", str(Path(__file__).resolve().parents[2])]
    command += ["--host", host, "--port", str(port), "--log-level", "warning", "--no-proxy-headers"]
    command += ["--workers", "1"]  # WEB_CONCURRENCY would start several, and FiftyOne keeps its state in one
    command += ["--timeout-graceful-shutdown", "1"]  # pages keep a connection open for events
    with (
        _open_log(name) as (log, place),
        supervised(command, environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process,
    ):
        server = Server(name, f"http://{_bracketed(host)}:{port}/", process, place)
        _wait_until_ready(server, host, port, log)
        yield server


@contextmanager
def _open_log(name: str) -> Iterator[tuple[BinaryIO, str]]:
    """The file that a server writes to, and the end of a message that says where it is."""
    try:
        path = state_dir() / f"{name.lower()}.log"
    except PipelineError:  # outside a project
        with TemporaryFile() as log:
            yield log, ""
    else:
        with path.open("w+b") as log:
            yield log, f"; see {path}"


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


def _wait_until_ready(server: Server, host: str, port: int, log: BinaryIO) -> None:
    """Waits until the server listens, which it does once its application is ready."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            socket.create_connection((_reachable(host), port), timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    log.seek(0)
    last = log.read().decode(errors="replace").rstrip().rpartition("\n")[2]
    if last.startswith("fcos: "):
        raise PipelineError(last.removeprefix("fcos: "))
    raise PipelineError(f"{server.name}: no response at {_bracketed(host)}:{port}{server.log}")


def _bracketed(host: str) -> str:
    """An address as in a URL."""
    return f"[{host}]" if ":" in host else host


def _reachable(host: str) -> str:
    """The address at which a server that listens on `host` answers; `0.0.0.0` means every interface."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)


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


def require_free_port(port: int, host: str = LOOPBACK) -> None:
    """Raises PipelineError if a program listens on the port: servers report that late, or not at all."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port closed a minute ago is free
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = error.strerror or str(error)
            remedy = "stop that program, or choose another --port"
            if error.errno != errno.EADDRINUSE:
                remedy = "choose another --port" if host == LOOPBACK else "choose another --host or --port"
            raise PipelineError(f"{_bracketed(host)}:{port}: {reason[:1].lower()}{reason[1:]}; {remedy}") from None
