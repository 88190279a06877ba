"""Sends the queue to MLflow: in a thread beside a stage, and for `fcos sync`."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from filelock import FileLock, Timeout

from pipeline.errors import PipelineError
from pipeline.integrations import mlflow_queue
from pipeline.integrations.mlflow_errors import without_password
from pipeline.integrations.mlflow_queue import Entry, Operation
from pipeline.integrations.mlflow_store import RefusedError, Store

SEND_SECONDS = 3.0  # between two sendings while a stage runs
RETRY_SECONDS = 30.0  # after a failure
END_SECONDS = 60.0  # that a stage waits at its end for a slow server
KEPT = "it is kept in .fcos/mlflow, and the next stage or `fcos sync` sends it"


@contextmanager
def turn() -> Iterator[None]:
    """Processes send one after the other, so that a stage's run exists when the next stage looks for it.

    Raises:
        PipelineError: another process sends for too long.
    """
    mlflow_queue.folder().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(mlflow_queue.folder() / "sender.lock", timeout=END_SECONDS):
            yield
    except Timeout:
        raise PipelineError("MLflow: another process of this project has been sending for a minute") from None


def send_abandoned(store: Store, server: str) -> list[str]:
    """Sends the entries of processes that have ended; returns the names of those that MLflow has received.

    Raises:
        PipelineError: something couldn't be sent now.
    """
    sent = []
    for entry in mlflow_queue.abandoned(server):
        try:
            for error in _send_entry(store, entry):
                print_line(error)
        except RefusedError as error:
            print_line(f"{error}; {entry.path} is kept: remove it if MLflow can do without it")
            continue
        if entry.run and not entry.ended:
            store.apply(entry, {"kind": "end", "status": "KILLED", "time": int(time.time() * 1000)})
        sent.append(entry.name)
        entry.remove()
    return sent


def _send_entry(store: Store, entry: Entry) -> list[str]:
    """Sends an entry; returns the errors of operations that MLflow refused, which are not sent again."""
    refused = []
    for operation, position in _grouped(entry.unsent()):
        try:
            store.apply(entry, operation)
        except RefusedError as error:
            if operation["kind"] == "open":  # the others need the run
                raise
            refused.append(str(error))
        entry.mark_sent(position)
    return refused


def _grouped(operations: Iterator[tuple[Operation, int]]) -> Iterator[tuple[Operation, int]]:
    """Joins consecutive metrics of a training's steps: a request for each would take long."""
    pending: tuple[Operation, int] | None = None
    for operation, position in operations:
        if pending and operation["kind"] == "metrics" and operation.keys() == pending[0].keys() == {"kind", "points"}:
            pending = {"kind": "metrics", "points": pending[0]["points"] + operation["points"]}, position
            continue
        if pending:
            yield pending
        pending = operation, position
    if pending:
        yield pending


@dataclass
class Sender:
    """Sends an entry in a thread while its stage runs, and completes it when the stage ends."""

    entry: Entry
    server: str
    store: Store | None  # None: opened by the thread
    refused: list[str] = field(default_factory=list)
    problem: str = ""  # why something could not be sent last time

    def __post_init__(self) -> None:
        self._ending = threading.Event()
        self._sent_others = False
        self._run = ""
        self._thread = threading.Thread(target=self._send_until_end, name="MLflow sender", daemon=True)
        self._thread.start()

    @property
    def run(self) -> str:
        """The run's id in MLflow; empty before MLflow knows the run."""
        return self._run or self.entry.run

    def finish(self, seconds: float) -> None:
        """Sends what is left, and prints a line if something remains in the queue after this time."""
        self._ending.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.problem = (
                f"{without_password(self.server) or 'MLflow'}: not everything was sent in {seconds:g} seconds"
            )
        if self.problem:
            print_line(f"{self.problem}; {KEPT}")
            self.entry.lock.release()

    def _send_until_end(self) -> None:
        wait, ending = 0.0, False
        while not ending:
            ending = self._ending.wait(wait)
            self._send()
            wait = RETRY_SECONDS if self.problem else SEND_SECONDS
        if not self.problem:
            self._run = self.entry.run
            self.entry.remove()

    def _send(self) -> None:
        first = not self.problem
        try:
            self.store = self.store or Store.open(self.server)
            with turn():
                if not self._sent_others:
                    send_abandoned(self.store, self.server)
                    self._sent_others = True
                self._note(_send_entry(self.store, self.entry))
            self.problem = ""
        except PipelineError as error:
            self.problem = str(error)
        except Exception as error:  # noqa: BLE001 - a thread's error would be lost
            self.problem = f"MLflow: {type(error).__name__}: {error}"
        if self.problem and first and not self._ending.is_set():
            print_line(f"{self.problem}; the stage goes on without MLflow")

    def _note(self, refused: list[str]) -> None:
        if refused and not self.refused:
            print_line(f"{refused[0]}; continuing without it")
        self.refused += refused


def print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
