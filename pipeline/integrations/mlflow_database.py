"""The project's own MLflow store: a database, mlflow.db, and a folder of artifacts, under the project's root."""

import atexit
import sqlite3
from contextlib import closing
from typing import Any
from urllib.parse import quote

from filelock import FileLock

from pipeline.workspace import close_to_others, root, state_dir

# The tables and columns with addresses of artifacts.
_ARTIFACT_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def store_uri() -> str:
    """The address of the database, with the special characters of its path as `%3F`.

    MLflow takes what follows `sqlite:///` for a path and creates its folders; it leaves `sqlite+pysqlite:///` alone.
    """
    return f"sqlite+pysqlite:///{quote(str(root() / 'mlflow.db'))}?timeout=60"


def artifacts_uri() -> str:
    return (root() / "mlartifacts").as_uri()


def open_client() -> tuple[Any, str]:
    """A client of the store, which is created if it is missing, and where it keeps artifacts.

    Two processes that create the database would damage it. The experiment gets an explicit folder for artifacts, since
    MLflow's default is `./mlruns` of the current folder.
    """
    with FileLock(state_dir() / "mlflow.lock"):
        from mlflow import MlflowClient
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        _close_store_to_others()
        # First, since MLflow tries to open a folder or a file without permission for minutes.
        with closing(sqlite3.connect(root() / "mlflow.db", timeout=60)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # writers don't wait for readers; a property of the file
        # The client would write the current folder into an SQL statement, quotes included.
        SqlAlchemyStore(store_uri(), artifacts_uri())
        with closing(sqlite3.connect(root() / "mlflow.db", timeout=60)) as connection, connection:
            _relocate_artifacts(connection)
        atexit.register(close_store)
        return MlflowClient(tracking_uri=store_uri(), registry_uri=store_uri()), artifacts_uri()


def close_store() -> None:
    """Closes MLflow's connections, which keeps them until the process ends. SQLite's last one completes mlflow.db.

    Until then, the newest changes are in mlflow.db-wal alone.
    """
    from mlflow.store.model_registry import sqlalchemy_store as registry
    from mlflow.store.tracking import sqlalchemy_store as tracking

    for engine in (*tracking.SqlAlchemyStore._engine_map.values(), *registry.SqlAlchemyStore._engine_map.values()):
        engine.dispose()


def _relocate_artifacts(connection: sqlite3.Connection) -> None:
    """Makes the addresses of artifacts those of this project's folder, if it was moved or copied.

    MLflow stores absolute addresses: in a copy, it would write the artifacts of new runs into the original.
    """
    new = artifacts_uri()
    rows = connection.execute("SELECT artifact_location FROM experiments WHERE artifact_location LIKE '%/mlartifacts'")
    for old in {location for (location,) in rows if location.startswith("file:///")} - {new}:
        for table, column in _ARTIFACT_COLUMNS:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
            )


def _close_store_to_others() -> None:
    """Creates the database and the folder of artifacts, closed to other users; closes them if they exist already."""
    database, artifacts = root() / "mlflow.db", root() / "mlartifacts"
    database.touch(mode=0o600)
    artifacts.mkdir(mode=0o700, exist_ok=True)
    # SQLite gives its further files the rights of the database, but they may be older than this rule.
    for path in (artifacts, *database.parent.glob("mlflow.db*")):
        close_to_others(path)
