"""An empty MLflow store, which takes seconds to create."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of an empty store, created without a umask, for tests to copy."""
    from pipeline.integrations import mlflow

    folder = tmp_path_factory.mktemp("empty")
    umask = os.umask(0)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DVC_ROOT", str(folder))
            mlflow.prepare()
    finally:
        os.umask(umask)
    return folder / "mlflow.db"


def copy_store(source: Path, target: Path) -> None:
    """Copies a database that may be open."""
    with closing(sqlite3.connect(source)) as opened, closing(sqlite3.connect(target)) as copy:
        opened.backup(copy)
