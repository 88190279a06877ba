from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.datasets import registry
from pipeline.datasets.registry import Entry
from tests.support.dataset_layouts import LAYOUTS, pack, small
from tests.support.http_servers import serving


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every file of the registry, small ones in their true layout."""
    folder = tmp_path_factory.mktemp("mirror")
    for archives in LAYOUTS.values():
        pack(archives, folder)
    return folder


@pytest.fixture(scope="module")
def address(mirror: Path) -> Iterator[str]:
    """Where a web server on the loopback has them."""
    with serving(mirror) as address:
        yield address


@pytest.fixture
def bccd(mirror: Path) -> Entry:
    return small(registry.find("bccd"), mirror)
