"""The lists of tests/conftest.py name existing files and tests: a stale name would go unnoticed."""

import pytest

from tests.conftest import LONGEST, SLOW
from tests.support.paths import PROJECT


def test_the_longest_files_exist() -> None:
    names = {path.name for path in (PROJECT / "tests").rglob("test_*.py")}
    assert [name for name in LONGEST if name not in names] == []


@pytest.mark.parametrize("node", SLOW)
def test_slow_tests_exist(node: str) -> None:
    path, _, function = node.partition("::")
    assert (PROJECT / path).exists()
    assert not function or f"def {function}(" in (PROJECT / path).read_text()
