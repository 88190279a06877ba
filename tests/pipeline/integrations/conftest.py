"""The parameters of a project with an empty store of MLflow, and what the tests leave behind."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import params
from pipeline.params import Params
from tests.support.empty_store import copy_store


@pytest.fixture(autouse=True)
def remove_sockets(tmp_path: Path) -> Iterator[None]:
    """Removes the socket's folder in /tmp of a killed mongod, which the next start in its project would remove."""
    yield
    if (record := tmp_path / ".fcos/mongo/socket").is_file():
        shutil.rmtree(Path(record.read_text().strip()).parent, ignore_errors=True)


@pytest.fixture
def values(inspected: Any, empty_store: Path) -> Params:
    """The parameters, in a project with an empty store."""
    copy_store(empty_store, inspected.root / "mlflow.db")
    return params.load()
