"""Boxes of the ground truth that people can edit in FiftyOne's App, with the ids that lead back to data/unified."""

from collections.abc import Sequence
from typing import Any


def make_editable(dataset: Any, classes: Sequence[str]) -> None:
    """Opens the field ground_truth for the App's editor: boxes, classes and tags, nothing else.

    Args:
        dataset: of FiftyOne, with a field ground_truth.
        classes: from which the editor lets people choose.
    """
    import fiftyone as fo

    path = "ground_truth.detections.annotation_id"
    dataset.add_sample_field(path, fo.IntField, description="id in data/unified; none for a new box")
    schema = {
        "type": "detections",
        "component": "dropdown",
        "classes": list(classes),
        "attributes": [
            {"name": "annotation_id", "type": "int", "component": "text", "read_only": True},
        ],
    }
    dataset.set_label_schemas({"ground_truth": schema})
    dataset.activate_label_schemas("ground_truth")
