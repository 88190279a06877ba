import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first: begun last, it would leave one of two workers idle for minutes."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")
