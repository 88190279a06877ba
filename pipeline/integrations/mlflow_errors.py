"""Errors of MLflow, its database, its server and the disk in one line, with a remedy that fits the cause."""

import re
import shlex
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

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
# What MLflow answers to a request that it would refuse again: error codes, and statuses of artifacts' requests.
_REFUSALS = {
    "BAD_REQUEST", "ENDPOINT_NOT_FOUND", "INVALID_PARAMETER_VALUE", "INVALID_STATE", "NOT_FOUND", "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST",
}  # fmt: skip
_REFUSED_STATUSES = {400, 404, 405, 409, 410, 413, 422, 501}
_UNAUTHORIZED = {"CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED", "UNAUTHENTICATED"}
_FOUND_VERSION = re.compile(r"database schema \(found version (\w+)")


def is_refusal(error: Exception) -> bool:
    """Whether the same request would fail again."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return getattr(error, "error_code", None) in _REFUSALS or status in _REFUSED_STATUSES


def describe_error(
    error: Exception, action: str, *, database: Path, address: str, migrations: Path, server: str = ""
) -> str:
    """The cause of an error and its remedy.

    Args:
        action: what failed.
        server: the server's address; empty for the project's own database.
        database: file of MLflow's database.
        address: of the database, as MLflow's commands take it.
        migrations: the folder of MLflow's migrations, with a file for each version of the database that it knows.
    """
    if server:
        return f"{without_password(server)}: MLflow: {action}: {_describe_server_error(error)}"
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


def without_password(server: str) -> str:
    """A server's address without user name and password."""
    parts = urlsplit(server)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _describe_server_error(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if getattr(error, "error_code", None) in _UNAUTHORIZED or status in (401, 403):
        return (
            "the server does not accept the credentials: set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD"
        )
    causes = list(_causes(error))
    if any("Timeout" in type(cause).__name__ for cause in causes):
        return "no response in time"
    reasons = (cause.strerror for cause in causes if isinstance(cause, OSError) and cause.strerror)
    first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return next((reason.lower() for reason in reasons), first_line)
