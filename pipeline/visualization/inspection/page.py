"""`reports/inspection.html`: what a detector gets wrong, on one self-contained page that can be sent to anybody."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

from pipeline.data.annotations import AnnotationSet
from pipeline.errors import count_noun, count_phrase
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.files import digest, read_json
from pipeline.inference.score_thresholds import describe
from pipeline.visualization import pages
from pipeline.visualization.inspection import label_errors
from pipeline.visualization.inspection.cases import DETECTION_COLOR, TRUTH_COLOR, ClassLabels
from pipeline.visualization.inspection.confusion import confusion
from pipeline.visualization.inspection.failure_sheets import Group
from pipeline.visualization.inspection.pictures import Picture, limit, read_plot

# Characters of the page, which is at most 10 MB large: four plots of 0.4 MB each come to these.
_CASES_BUDGET, _LABELS_BUDGET, _MAX_CARD = 5_000_000, 1_200_000, 100_000
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)  # of a model card, for programs
_MAX_LABEL_ERRORS = 24
_MAX_CLASSES = 1000  # rows of the table
_FEW_OBJECTS = 10  # of a class, below which its AP says little
_PLOTS = {
    "precision_recall": "Precision and recall",
    "f1": "F1 over the score threshold",
    "reliability": "Share of correct detections over their score",
}
# Kinds of errors whose cost is known: what they are, and the pictures of them.
_ERROR_KINDS = {
    "missed": ("an object without a correct detection", "missed_objects"),
    "background": ("a detection where no object is", "false_positives"),
    "wrong_class": ("a detection on an object of another class", "wrong_class"),
    "poor_box": ("a detection of the right class whose box fits poorly, with an IoU from 0.1", "poor_boxes"),
    "duplicate": ("a further detection of an object that was found", "duplicates"),
    "wrong_class_and_poor_box": ("a poorly fitting box on an object of another class", None),
}


@dataclass(frozen=True)
class Inspection:
    """What the inspect stage found out about the detections in a split."""

    dataset: str
    split: str
    truth: AnnotationSet
    errors: Mapping[int, ImageErrors]  # by image id
    thresholds: Sequence[float]  # the lowest score of a detection of each class
    iou_threshold: float
    groups: Sequence[Group]
    counts: Mapping[str, Mapping[str, Any]]  # of metrics/inspect.json
    has_map: bool = True  # whether reports/embeddings.png, if it exists, shows anything


def write(home: Path, inspection: Inspection, path: Path) -> None:
    """Writes the page, whole or not at all. The same files always give the same bytes.

    Besides the inspection, the page shows what it finds in the project: metrics/ and plots/ of evaluation, report.json
    of conversion, and in reports/ embeddings.png, label_errors.json and model_card.md.

    Raises:
        PipelineError: one of these files is invalid, or an image can't be decoded.
    """
    pages.write(render(home, inspection), path)


def render(home: Path, inspection: Inspection) -> str:
    """The HTML of the page."""
    metrics, facts = _metrics(home, inspection.split), _read(home / "data/unified/report.json")
    shown = limit([group.pictures for group in inspection.groups], _CASES_BUDGET)
    labels = label_errors.draw(home, home / "data/raw" / inspection.dataset, _MAX_LABEL_ERRORS)
    matrix = confusion(inspection.truth, inspection.errors, inspection.iou_threshold)
    errors = _error_rows(metrics, inspection)
    classes = _class_rows(metrics, facts, inspection)
    content = {
        "dataset": inspection.dataset,
        "split": inspection.split,
        "summary": _summary(inspection.truth),
        "detector": _detector(home / "models"),
        "scores": describe(inspection.thresholds),
        "iou": inspection.iou_threshold,
        "facts": _facts(metrics, inspection),
        "first": _look_first(errors, matrix, classes),
        "errors": errors,
        "matrix": matrix,
        "classes": classes[:_MAX_CLASSES],
        "left_out": max(0, len(classes) - _MAX_CLASSES),
        "evaluated": bool(metrics),
        "sizes": [_size_row(name, size) for name, size in metrics.get("by_size", {}).items() if size["objects"]],
        "groups": [
            {"group": group, "pictures": pictures} for group, pictures in zip(inspection.groups, shown, strict=True)
        ],
        "colors": {"truth": f"rgb{TRUTH_COLOR}", "detection": f"rgb{DETECTION_COLOR}"},
        "legend": ClassLabels(inspection.truth.categories).legend,
        "plots": _plots(home, inspection.split),
        "embeddings": read_plot(home / "reports/embeddings.png") if inspection.has_map else None,
        "vote": inspection.counts.get("embeddings"),
        "labels": {"counts": labels.counts, "pictures": limit([labels.pictures], _LABELS_BUDGET)[0]},
        "data": _data(facts),
        "card": _model_card(home / "reports/model_card.md"),
    }
    return pages.render("inspection/page.html.jinja", content)


def _metrics(home: Path, split: str) -> Mapping[str, Any]:
    return _read(home / "metrics" / ("evaluate.json" if split == "val" else "test.json"))


def _read(path: Path) -> Mapping[str, Any]:
    """The content of a JSON file; empty without the file."""
    content: Mapping[str, Any] = read_json(path) if path.is_file() else {}
    return content


def _summary(truth: AnnotationSet) -> str:
    return ", ".join(
        (
            count_noun(len(truth.images), "image"),
            count_noun(len(truth.objects), "object"),
            count_noun(len(truth.categories), "class", "classes"),
        )
    )


def _detector(models: Path) -> str:
    """What tells this detector from others, such as `resnet50, input size 800×1333, weights 0123456789ab`."""
    description, weights = _read(models / "detector.json"), models / "detector.safetensors"
    facts = []
    if description:
        facts += [description["model"]["backbone"], f"input size {'×'.join(map(str, description['size']))}"]
    if weights.is_file():
        facts.append(f"weights {digest(weights)[:12]}")
    return ", ".join(facts)


def points(value: float | None) -> str:
    """A fraction of 1 in points of 100."""
    return "—" if value is None else f"{100 * value:.1f}"


def _facts(metrics: Mapping[str, Any], inspection: Inspection) -> list[tuple[str, str, str]]:
    """The most important numbers, each with its name and its interval."""
    wrong = sum(image.count for image in inspection.errors.values())
    facts = []
    if metrics:
        for name in ("AP", "AP50"):
            bounds = metrics["intervals"][name]
            known = bounds["low"] is not None
            interval = f"{points(bounds['low'])} … {points(bounds['high'])}" if known else ""
            facts.append((name, points(metrics["coco"][name]), interval))
        point = metrics["operating_point"]
        facts += [(name, points(point[name.lower()]), "") for name in ("Precision", "Recall", "F1")]
    return [*facts, ("Errors", f"{wrong:,}", "")]


def _error_rows(metrics: Mapping[str, Any], inspection: Inspection) -> list[dict[str, Any]]:
    """The kinds of errors, the costliest first."""
    counts, costs = inspection.counts["errors"], metrics.get("errors", {})
    shown = {group.name for group in inspection.groups if group.pictures}
    rows = [
        {
            "name": kind.replace("_", " "),
            "meaning": meaning,
            "link": link if link in shown else None,
            "count": counts.get(kind),
            "cost": costs.get(kind, {}).get("AP50_cost"),
        }
        for kind, (meaning, link) in _ERROR_KINDS.items()
        if kind in counts or costs
    ]
    largest = max((row["cost"] or 0 for row in rows), default=0) or 1
    rows = [row | {"points": points(row["cost"]), "share": max(0, row["cost"] or 0) / largest} for row in rows]
    return sorted(rows, key=lambda row: -(row["cost"] or 0))


def _class_rows(metrics: Mapping[str, Any], facts: Mapping[str, Any], inspection: Inspection) -> list[dict[str, Any]]:
    """Classes with their metrics, the lowest AP first; those without objects last."""
    trained = facts.get("splits", {}).get("train", {}).get("classes", {})
    objects: dict[int, int] = {}
    for item in inspection.truth.objects:
        objects[item.category_id] = objects.get(item.category_id, 0) + 1
    rows = [
        {"name": category.name, "objects": objects.get(category.id, 0), "trained": trained.get(category.name)}
        | _class_metrics(metrics.get("per_class", {}).get(category.name, {}))
        for category in inspection.truth.categories
    ]
    return sorted(rows, key=lambda row: (row["AP"] is None, row["AP"] or 0))


def _class_metrics(values: Mapping[str, float | None]) -> dict[str, Any]:
    ap, low, high = (values.get(name) for name in ("AP", "AP_low", "AP_high"))
    shown = {name: points(values.get(name)) for name in ("AP50", "precision", "recall")}
    interval = f"{points(low)} … {points(high)}" if low is not None else ""
    return shown | {"AP": ap, "AP_points": points(ap), "low": low, "high": high, "interval": interval}


def _size_row(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name.replace("-", "–"),
        "objects": values["objects"],
        "AP": points(values["AP"]),
        "AP50": points(values["AP50"]),
    }


def _look_first(
    errors: Sequence[Mapping[str, Any]], matrix: Mapping[str, Any], classes: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The kind of error that costs most, the most confused pair of classes, and the class with the lowest AP."""
    known = [row for row in classes if row["AP"] is not None]
    known = [row for row in known if row["objects"] >= _FEW_OBJECTS] or known
    return {
        "error": errors[0] if errors and errors[0]["cost"] and errors[0]["cost"] > 0 else None,
        "pair": matrix["pairs"][0] if matrix["pairs"] else None,
        "lowest": known[0] if len(known) > 1 else None,
    }


def _plots(home: Path, split: str) -> list[tuple[str, Picture]]:
    """Those of evaluation, which show the validation split."""
    if split != "val":
        return []
    plots = {title: read_plot(home / f"plots/evaluate/{name}.png") for name, title in _PLOTS.items()}
    return [(title, plot) for title, plot in plots.items() if plot]


def _data(facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """What conversion reported on the data set."""
    if not facts:
        return None
    columns = ("images", "images_without_objects", "objects", "difficult", "crowds")
    notes = [f"format: {facts['format']}", *facts.get("remarks", ())]
    notes += [count_phrase(count, text) for text, count in facts.get("notes", {}).items()]
    if applied := (facts.get("corrections") or {}).get("applied"):
        listed = ", ".join(f"{count} {action}" for action, count in applied.items())
        notes.append(f"corrections applied: {listed}")
    return {
        "splits": [(name, [split[column] for column in columns]) for name, split in facts["splits"].items()],
        "issues": sorted(facts.get("counts", {}).items()),
        "notes": notes,
    }


def _model_card(path: Path) -> str | None:
    """The card as HTML, without its front matter.

    HTML in it is shown as text, and its images are left out, since the page loads nothing.
    """
    if not path.is_file():
        return None
    text = _FRONT_MATTER.sub("", path.read_text(encoding="utf-8", errors="replace"))[:_MAX_CARD]
    return str(MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render(text))
