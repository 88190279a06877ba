"""Removes experiments from a FiftyOne dataset, in a process of its own, as `fiftyone_dataset` fills it."""

import json
import sys
from contextlib import redirect_stdout
from typing import Any

from pipeline.integrations import fiftyone_info, fiftyone_layout, fiftyone_views, mongo
from pipeline.integrations.fiftyone_fields import ExperimentFields


def main() -> None:
    """Reads `{"names": of datasets, "keep": experiments}` from stdin, and writes the removed ones to stdout."""
    spec = json.load(sys.stdin)
    mongo.shorten_fiftyone_import()
    with redirect_stdout(sys.stderr):  # FiftyOne may print
        removed = [experiment for name in spec["names"] for experiment in prune(name, set(spec["keep"]))]
    print(json.dumps(list(dict.fromkeys(removed))))  # noqa: T201


def prune(name: str, keep: set[str]) -> list[str]:
    """Removes the experiments that are not in `keep`, and returns their names; the workspace stays."""
    import fiftyone as fo

    if not fo.dataset_exists(name):
        return []
    dataset = fo.load_dataset(name)
    records = fiftyone_info.read(dataset)["experiments"]
    removed = [field for field, record in records.items() if record["name"] not in {None, *keep}]
    for field in removed:
        remove(dataset, ExperimentFields.of(records[field]["name"]))
    info = fiftyone_info.read(dataset)
    if removed and info["experiments"]:
        shown = info["shown"] if info["shown"] in info["experiments"] else next(iter(info["experiments"]))
        fields = ExperimentFields.of(info["experiments"][shown]["name"])
        fiftyone_views.refresh(dataset, fields, show=True)
        fiftyone_layout.apply(dataset)
    return [records[field]["name"] for field in removed]


def remove(dataset: Any, fields: ExperimentFields) -> None:
    """Removes an experiment's fields and its evaluation."""
    fiftyone_info.save_experiment(dataset, fields.predictions, None)
    if dataset.has_evaluation(fields.eval):
        dataset.delete_evaluation(fields.eval)  # with its fields
    labels = [f"ground_truth.detections.{name}" for name in fields.of_truth]
    for path in (*labels, *fields.of_samples, fields.predictions):
        if dataset.has_field(path):
            dataset.delete_sample_field(path)


if __name__ == "__main__":
    main()
