"""Errors of MLflow, its database and the disk in one line, with a remedy that fits the cause."""

import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path

_DAMAGED = "the file is damaged: move it and the files with -wal and -shm after its name away; MLflow starts a new one"
# By words of the cause, in lower case.
_REMEDIES = {
    "locked": "another program writes to it: wait for that program or stop it, then run the command again",
    "not a database": _DAMAGED,
    "malformed": _DAMAGED,
    "full": "free some space, then run the command again",
    "no space left": "free some space, then run the command again",
    "disk quota exceeded": "free some space, then run the command again",
    "readonly": "allow your user to write the file and its folder",
    "unable to open": "allow your user to write the file and its folder",
    "permission denied": "allow your user to write there",
}
_FOUND_VERSION = re.compile(r"database schema \(found version (\w+)")


def describe_error(error: Exception, action: str, *, database: Path, address: str, migrations: Path) -> str:
    """The cause of an error and its remedy.

    Args:
        action: what failed.
        database: file of MLflow's database.
        address: of the database, as MLflow's commands take it.
        migrations: the folder of MLflow's migrations, with a file for each version of the database that it knows.
    """
    if match := _FOUND_VERSION.search(str(error)):
        return f"{database}: MLflow: {action}: {_describe_version(match[1], database, address, migrations)}"
    cause = next((cause for cause in _causes(error) if isinstance(cause, (sqlite3.Error, OSError))), error)
    path, reason = database, next(iter(str(cause).strip().splitlines()), type(cause).__name__)
    if isinstance(cause, OSError) and cause.strerror:
        path, reason = Path(cause.filename or database), cause.strerror
    remedy = next((remedy for words, remedy in _REMEDIES.items() if words in reason.lower()), None)
    return f"{path}: MLflow: {action}: {reason}" + (f"; {remedy}" if remedy else "")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that led to it, the first one last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _describe_version(version: str, database: Path, address: str, migrations: Path) -> str:
    if version == "None":  # a process was killed that created it
        return f"it is incomplete; {_DAMAGED}"
    if not any(migrations.glob(f"{version}_*.py")):
        return "a newer version of MLflow wrote it: install that version, or move the file away to start a new one"
    copy = shlex.join(["cp", str(database), f"{database}.backup"])
    return (
        f"an older version of MLflow wrote it: run `{copy}`, then `{shlex.join(['mlflow', 'db', 'upgrade', address])}`"
    )
