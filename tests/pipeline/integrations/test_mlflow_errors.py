"""Errors of MLflow in one line: the cause, and a remedy that fits it."""

import errno
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import OperationalError

from pipeline.integrations.mlflow_errors import describe_error

ADDRESS = "sqlite+pysqlite:////home/o%27brien/mlflow.db?timeout=60"
METRICS = "MLflow: metrics: "
OUTDATED = "Detected out-of-date database schema (found version {}, but expected b2). Take a backup of your database"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "it's here/mlflow.db"
    path.parent.mkdir()
    return path


def describe(error: Exception, database: Path) -> str:
    migrations = database.parent / "versions"
    migrations.mkdir(exist_ok=True)
    (migrations / "a1_add_metrics.py").touch()
    return describe_error(error, "metrics", database=database, address=ADDRESS, migrations=migrations)


def as_mlflow_raises(cause: sqlite3.Error) -> MlflowException:
    """The error of the database inside SQLAlchemy's, inside MLflow's, whose first line is about something else."""
    outer = OperationalError("UPDATE runs", {}, cause)
    outer.add_detail("raised as a result of Query-invoked autoflush")
    outer.__cause__ = cause
    error = MlflowException(str(outer))
    error.__cause__ = outer
    return error


def test_a_locked_database(database: Path) -> None:
    with closing(sqlite3.connect(database)) as writer, closing(sqlite3.connect(database, timeout=0)) as other:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(sqlite3.OperationalError) as caught:
            other.execute("CREATE TABLE a (b)")
    assert describe(as_mlflow_raises(caught.value), database) == (
        f"{database}: {METRICS}database is locked; another program writes to it: wait for that program or "
        "stop it, then run the command again"
    )


def test_a_damaged_database(database: Path) -> None:
    database.write_bytes(b"this is no database" * 100)
    with closing(sqlite3.connect(database)) as connection, pytest.raises(sqlite3.DatabaseError) as caught:
        connection.execute("PRAGMA journal_mode=WAL")
    assert describe(caught.value, database) == (
        f"{database}: {METRICS}file is not a database; the file is damaged: move it and the files with "
        "-wal and -shm after its name away; MLflow starts a new one"
    )


def test_a_database_of_an_older_version_is_copied_and_upgraded(database: Path) -> None:
    line = describe(MlflowException(OUTDATED.format("a1")), database)
    assert line.startswith(f"{database}: {METRICS}an older version of MLflow wrote it: run `cp ")
    _, copy, _, upgrade, _ = line.split("`")
    assert shlex.split(copy) == ["cp", str(database), f"{database}.backup"]
    assert shlex.split(upgrade) == ["mlflow", "db", "upgrade", ADDRESS]


def test_an_incomplete_database_is_moved_away(database: Path) -> None:
    line = describe(MlflowException(OUTDATED.format(None)), database)
    assert line.startswith(f"{database}: {METRICS}it is incomplete; the file is damaged: move it and the files")


def test_a_database_of_a_newer_version_is_not_upgraded(database: Path) -> None:
    assert describe(MlflowException(OUTDATED.format("c3")), database) == (
        f"{database}: {METRICS}a newer version of MLflow wrote it: install that version, or move the file away to "
        "start a new one"
    )


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a b"), "free some space, then run the command again"),
        (OSError(errno.EACCES, "Permission denied", "a b"), "allow your user to write there"),
    ],
)
def test_an_error_of_the_disk_names_the_file(database: Path, error: OSError, remedy: str) -> None:
    assert describe(error, database) == f"a b: {METRICS}{error.strerror}; {remedy}"


def test_another_error_has_its_first_line_and_no_remedy(database: Path) -> None:
    assert (
        describe(MlflowException("Run 'x' not found\nTraceback"), database) == f"{database}: {METRICS}Run 'x' not found"
    )
    assert describe(MlflowException(""), database) == f"{database}: {METRICS}MlflowException"
