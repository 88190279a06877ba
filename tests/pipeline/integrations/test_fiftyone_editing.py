"""The editor's setup: the list of classes, which FiftyOne limits."""

from unittest.mock import Mock

import pytest

from pipeline.integrations.fiftyone_editing import make_editable


@pytest.mark.parametrize(("count", "component"), [(1000, "dropdown"), (1001, "text")])
def test_more_than_a_thousand_classes_are_typed(count: int, component: str) -> None:
    """FiftyOne refuses a longer list: `python -m benchmarks.scale --only FiftyOne` fills a dataset of 1,200 classes."""
    dataset, classes = Mock(), [f"class {number}" for number in range(count)]
    make_editable(dataset, classes)
    schema = dataset.set_label_schemas.call_args.args[0]["ground_truth"]
    assert (schema["component"], schema.get("classes")) == (component, classes if component == "dropdown" else None)
