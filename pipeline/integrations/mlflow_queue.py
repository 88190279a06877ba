"""What MLflow has yet to receive: a queue on disk that the stages write and a sender empties.

Every stage's run is an entry, a folder of `.fcos/mlflow/`, with the operations in the order in which they apply:

    20261128T145120.123456-train-1a2b3c/
        operations.jsonl    an operation per line; the first opens the run
        files/              what its operations upload
        sent                the length of the operations that MLflow has received, in bytes
        destination         the address of the server; empty for the project's own store
        run                 the id of the run, once MLflow knows it

The process that writes an entry holds its lock. An entry that nobody holds belongs to a process that has ended, and any
sender completes it. Sending an operation again changes nothing, so a sender may be killed at any time.
"""

import json
import os
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pipeline.files import write_text
from pipeline.workspace import state_dir

Operation = dict[str, Any]


def folder() -> Path:
    return state_dir() / "mlflow"


class Entry:
    """The operations of a stage on its run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = FileLock(path / "lock", thread_local=False)
        self._writing = threading.Lock()
        self._number_of_files = 0

    @classmethod
    def create(cls, stage: str, destination: str) -> "Entry":
        """A new entry, held by this process.

        Args:
            destination: the address of MLflow's server; empty for the project's own store.
        """
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        entry = cls(folder() / f"{time}-{stage}-{secrets.token_hex(4)}")
        entry.path.mkdir(parents=True)
        entry.lock.acquire()
        (entry.path / "destination").write_text(destination)
        (entry.path / "operations.jsonl").touch()  # last: `entries` leaves out a folder without it
        return entry

    @property
    def name(self) -> str:
        """Its time, its stage and a random number."""
        return self.path.name

    @property
    def destination(self) -> str:
        return _read(self.path / "destination")

    @property
    def run(self) -> str:
        """The run's id; empty before MLflow knows it."""
        return _read(self.path / "run")

    @run.setter
    def run(self, run: str) -> None:
        write_text(self.path / "run", run)

    def append(self, kind: str, **values: Any) -> None:
        """Adds an operation. Several threads may call it."""
        line = json.dumps({"kind": kind, **values}).encode() + b"\n"
        with self._writing, (self.path / "operations.jsonl").open("ab") as file:
            file.write(line)

    def add_files(self, files: Mapping[str, Path | bytes]) -> str:
        """Keeps files or folders as they are now; returns the folder that has them, relative to the entry.

        The file system shares the content with a file that its writer replaces and never changes in place, as all of
        this project's are.

        Args:
            files: names, and paths or contents.
        """
        with self._writing:
            self._number_of_files += 1
            folder = f"files/{self._number_of_files}"
        (self.path / folder).mkdir(parents=True)
        for name, content in files.items():
            target = self.path / folder / name
            if isinstance(content, bytes):
                target.write_bytes(content)
            elif content.is_dir():
                shutil.copytree(content, target, copy_function=_link)
            else:
                _link(content, target)
        return folder

    def unsent(self) -> Iterator[tuple[Operation, int]]:
        """The operations that MLflow has yet to receive, each with what `mark_sent` takes once it has.

        A line that a killed process left incomplete is none.
        """
        position = int(_read(self.path / "sent") or 0)
        with (self.path / "operations.jsonl").open("rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                position += len(line)
                yield json.loads(line), position

    @property
    def ended(self) -> bool:
        """Whether the last operation ends the run: its process was not killed."""
        lines = (self.path / "operations.jsonl").read_bytes().splitlines()
        return bool(lines) and b'"kind": "end"' in lines[-1]

    def mark_sent(self, position: int) -> None:
        """Notes that MLflow has received the operations up to this one."""
        write_text(self.path / "sent", str(position))

    def remove(self) -> None:
        """Removes an entry that MLflow has received."""
        # Another process that tries the lock meanwhile creates its file again, and the folder would not be empty.
        with suppress(FileNotFoundError):  # another process was faster
            removed = self.path.rename(self.path.with_name(f".{self.name}-{secrets.token_hex(4)}"))
            shutil.rmtree(removed, ignore_errors=True)
        self.lock.release()


def _link(source: Any, target: Any) -> None:
    """Links a file, or copies it where the file system has no links."""
    source = Path(source).resolve()
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def entries() -> list[Entry]:
    """All entries, the oldest first."""
    if not folder().is_dir():
        return []
    paths = sorted(path for path in folder().iterdir() if path.is_dir() and not path.name.startswith("."))
    return [Entry(path) for path in paths if (path / "operations.jsonl").is_file()]


def abandoned(server: str) -> Iterator[Entry]:
    """The entries for a server of processes that have ended, the oldest first; each is held while it is used."""
    for removed in folder().glob(".*"):  # by a process that was killed meanwhile
        shutil.rmtree(removed, ignore_errors=True)
    for entry in entries():
        if entry.destination != server:
            continue
        try:
            entry.lock.acquire(timeout=0)
        except (Timeout, FileNotFoundError):  # its process runs, or another process has sent it
            continue
        try:
            if (entry.path / "operations.jsonl").is_file():
                yield entry
            else:  # another process has removed it, and trying the lock has created its folder again
                entry.remove()
        finally:
            entry.lock.release()
