"""The editor of FiftyOne's App for boxes of the ground truth."""

from collections.abc import Sequence
from typing import Any

_MAX_CHOICES = 1000  # FiftyOne refuses a longer list


def make_editable(dataset: Any, classes: Sequence[str]) -> None:
    """Opens boxes and classes of the field ground_truth for the App's editor, which then needs no setup.

    Args:
        dataset: of FiftyOne, with a field ground_truth.
        classes: from which the editor lets people choose; they type the class where there are more than 1,000.
    """
    choices = {"component": "dropdown", "classes": list(classes)}
    schema = {
        "type": "detections",
        **(choices if len(classes) <= _MAX_CHOICES else {"component": "text"}),
        "attributes": [{"name": "annotation_id", "type": "int", "component": "text", "read_only": True}],
    }
    dataset.set_label_schemas({"ground_truth": schema})
    dataset.activate_label_schemas("ground_truth")
