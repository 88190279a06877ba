"""What the tests of integrations leave behind."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def remove_sockets(tmp_path: Path) -> Iterator[None]:
    """Removes the socket's folder in /tmp of a killed mongod, which the next start in its project would remove."""
    yield
    if (record := tmp_path / ".fcos/mongo/socket").is_file():
        shutil.rmtree(Path(record.read_text().strip()).parent, ignore_errors=True)
