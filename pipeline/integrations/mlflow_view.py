"""What MLflow's page shows of the experiment: the table's columns and the charts of the learning curves.

MLflow keeps a view as a tag of the experiment, in the format of its page's source (`ExperimentPageUIState`).
"""

import json
import uuid
from typing import Any

KIND_TAG, KIND = "mlflow.experimentKind", "custom_model_development"  # else the page shows traces of language models
NAME = "fcos"
TAG = f"mlflow.sharedViewState.{NAME}"
# Columns of the table beside a run's name and time, with their widths in pixels.
_COLUMNS = {
    "metrics.`coco/AP`": 90, "metrics.`coco/AP50`": 100, "params.`loss`": 70, "params.`seed`": 70,
    "attributes.`Dataset`": 260, "attributes.`Source`": 110, "attributes.`Version`": 100, "attributes.`Models`": 120,
}  # fmt: skip
# Sections of the charts, with what they draw over the steps. MLflow adds a chart for each further metric, in
# the section of the metric's prefix.
_CHARTS = {
    "val": (("AP", ["val/AP"]), ("AP50", ["val/AP50"])),
    "train": (
        ("Loss", ["train/total"]),
        ("Parts of the loss", ["train/classification", "train/box", "train/quality"]),
        ("Learning rate", ["train/learning_rate"]),
        ("Norm of the gradient", ["train/gradient_norm"]),
    ),
}
IMAGE_KEYS = tuple(f"predictions/{number}" for number in (1, 2, 3, 4))  # images with detections
_IMAGES = "predictions"  # their section


def state() -> str:
    """The view, for the tag of the experiment."""
    sections = {name: _identifier(name) for name in (*_CHARTS, _IMAGES)}
    charts = [
        _line_chart(title, metrics, sections[name]) for name, items in _CHARTS.items() for title, metrics in items
    ]
    return json.dumps(
        {
            "selectedColumns": list(_COLUMNS),
            "columnOrder": ["attributes.`Run Name`", *_COLUMNS],
            "columnWidths": _COLUMNS,
            "compareRunSections": [
                {"uuid": section, "name": name, "display": True, "isReordered": True, "isGenerated": True}
                for name, section in sections.items()
            ],
            "compareRunCharts": charts + [_image_chart(key, sections[_IMAGES]) for key in IMAGE_KEYS],
            "isAccordionReordered": True,  # these sections first
        }
    )


def page(experiment: str) -> str:
    """The address of the table of runs, from the `#` on."""
    return (
        f"#/experiments/{experiment}/runs?viewStateShareKey={NAME}&compareRunsMode=TABLE&workflowType=machine_learning"
    )


def run_page(experiment: str, run: str) -> str:
    """The address of a run's page, from the `#` on."""
    return f"#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"


def _line_chart(title: str, metrics: list[str], section: str) -> dict[str, Any]:
    return {
        "uuid": _identifier(title),
        "type": "LINE",
        "metricSectionId": section,
        "displayName": title,
        "metricKey": metrics[0],
        "selectedMetricKeys": metrics,
        "runsCountToCompare": 10,
        "isGenerated": False,
        "deleted": False,
        "xAxisKey": "step",
        "xAxisScaleType": "linear",
        "yAxisKey": "metric",
        "scaleType": "linear",
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": True,
        "useGlobalXaxisKey": True,
    }


def _image_chart(key: str, section: str) -> dict[str, Any]:
    return {
        "uuid": _identifier(key),
        "type": "IMAGE",
        "metricSectionId": section,
        "imageKeys": [key],
        "step": 1,
        "showRunParams": False,  # else all parameters of every run are beside its image
        "runsCountToCompare": 10,
        "isGenerated": False,
        "deleted": False,
    }


def _identifier(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))
