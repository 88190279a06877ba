from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.datasets import registry
from pipeline.datasets.registry import Entry
from tests.support.dataset_layouts import LAYOUTS, pack, small
from tests.support.http_servers import serving


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small version of every file of the registry, in its published layout."""
    folder = tmp_path_factory.mktemp("mirror")
    for archives in LAYOUTS.values():
        pack(archives, folder)
    return folder


@pytest.fixture(scope="module")
def address(mirror: Path) -> Iterator[str]:
    """The address of a web server on the loopback that serves the mirror."""
    with serving(mirror) as address:
        yield address


@pytest.fixture
def bccd(mirror: Path) -> Entry:
    """The entry of BCCD with the size and checksum of the mirror's file."""
    return small(registry.find("bccd"), mirror)
