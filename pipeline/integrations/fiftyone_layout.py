"""How FiftyOne's App looks when it opens: colors, the sidebar, the fields that are drawn, and a workspace."""

from typing import Any

from pipeline.integrations.fiftyone_fields import GROUND_TRUTH, LABEL_ERRORS, ExperimentFields

WORKSPACE = "inspect"
# By the attribute `error`: truth in green and yellow, correct detections in cyan, each kind of error in its own color.
TRUTH_COLORS = {"found": "#3cb44b", "missed": "#ffe119", "ignored": "#a9a9a9"}
DETECTION_COLORS = {
    "correct": "#42d4f4",
    "wrong_class": "#f032e6",
    "poor_box": "#f58231",
    "duplicate": "#9a6324",
    "background": "#e6194b",
    "low_score": "#808080",
}
# By the attribute `kind`: the color of the detector's error that such a label looks like.
LABEL_ERROR_COLORS = {
    "missing": DETECTION_COLORS["background"],
    "spurious": TRUTH_COLORS["missed"],
    "wrong_class": DETECTION_COLORS["wrong_class"],
    "poor_box": DETECTION_COLORS["poor_box"],
}
_IMAGE_FIELDS = ("split", "source", "objects", "smallest_object", "metadata.width", "metadata.height")
_UNUSED_METADATA = ("metadata.size_bytes", "metadata.mime_type", "metadata.num_channels")


def apply(dataset: Any) -> None:
    """Sets what the App shows at first: the boxes of one experiment, and the fields of the others folded away."""
    import fiftyone as fo

    config = dataset.app_config
    experiments = [ExperimentFields.of(values["name"]) for values in dataset.info["experiments"].values()]
    (shown,) = (item for item in experiments if item.predictions == dataset.info["shown"])
    config.color_scheme = fo.ColorScheme(
        color_by="value",
        fields=[
            _colors(GROUND_TRUTH, shown.error, TRUTH_COLORS),
            *(_colors(item.predictions, "error", DETECTION_COLORS) for item in experiments),
            _colors(LABEL_ERRORS, "kind", LABEL_ERROR_COLORS),
        ],
    )
    # Saved views other than those of label errors exclude that field.
    errors = [LABEL_ERRORS] if dataset.has_field(LABEL_ERRORS) else []
    config.active_fields = fo.ActiveFields(paths=[GROUND_TRUTH, shown.predictions, *errors])
    config.sidebar_groups = _sidebar(dataset, shown, [item for item in experiments if item != shown])
    dataset.save()
    dataset.save_workspace(WORKSPACE, _workspace(dataset), description="images and evaluation", overwrite=True)


def _colors(field: str, attribute: str, colors: dict[str, str]) -> dict[str, Any]:
    values = [{"value": value, "color": color} for value, color in colors.items()]
    first = next(iter(colors.values()))
    return {"path": field, "colorByAttribute": attribute, "valueColors": values, "fieldColor": first}


def _sidebar(dataset: Any, shown: ExperimentFields, others: list[ExperimentFields]) -> list[Any]:
    import fiftyone as fo

    errors = [LABEL_ERRORS] if dataset.has_field(LABEL_ERRORS) else []
    groups = {
        "tags": (["tags", "_label_tags"], True),
        "labels": ([GROUND_TRUTH, shown.predictions, *errors], True),
        "errors": (list(shown.scores), True),
        "metadata": ([*_IMAGE_FIELDS, *shown.counts], False),
        **{item.suffix.removeprefix("_") or "workspace": (_fields(item), False) for item in others},
    }
    known = {path for paths, _ in groups.values() for path in paths}
    rest = [path for path in dataset.get_field_schema() if path not in known and path != "metadata"]
    groups["other"] = ([*rest, *_UNUSED_METADATA], False)
    return [fo.SidebarGroupDocument(name=name, paths=paths, expanded=open_) for name, (paths, open_) in groups.items()]


def _fields(experiment: ExperimentFields) -> list[str]:
    return [experiment.predictions, *experiment.of_samples]


def _workspace(dataset: Any) -> Any:
    import fiftyone as fo

    panels = [fo.Panel(type="model_evaluation_panel_builtin"), fo.Panel(type="Histograms")]
    if dataset.list_brain_runs():
        panels.insert(1, fo.Panel(type="Embeddings"))
    sides = [_tabs([fo.Panel(type="Samples", pinned=True)]), _tabs(panels)]
    return fo.Space(children=sides, orientation="horizontal", sizes=[0.5, 0.5])


def _tabs(panels: list[Any]) -> Any:
    import fiftyone as fo

    return fo.Space(children=panels, active_child=panels[0].component_id)
