"""The numbers behind the plots of an evaluation, as tables, from matches that were computed once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco
from pipeline.evaluation.matches import Floats, Matches, class_names
from pipeline.evaluation.operating_point import IOU, OperatingPoints
from pipeline.evaluation.report import Report
from pipeline.evaluation.voc import Curve

Table = Mapping[str, Sequence[Any] | NDArray[Any]]  # columns of equal length

BACKGROUND = "(background)"
GRID = np.arange(101) / 100  # recalls and scores of curves; not linspace, whose 0.7 is above a score of 0.7
_BINS = 10  # of scores, as in the calibration error


def plot_tables(truth: AnnotationSet, detections: Sequence[Detection], report: Report) -> dict[str, Table]:
    """The tables by name: a row for each point, bar or cell, in fractions of 1, at an IoU of 0.5 except for AP.

    Classes without objects have no curve and no bar. What has no value is NaN.

        - "precision_recall": recall; precision, as in COCO's AP50, the mean over classes
        - "precision_recall_by_class": class, recall, precision
        - "scores": score, up to the highest; precision, recall and F1 of all detections with at least this score
        - "f1_by_class": class, score, F1
        - "reliability": for each bin of scores with detections, the mean score, the share of correct detections
          (correct), what it would be if scores were probabilities (perfect), and the number of detections
        - "confusion": actual, predicted, count, and share of the actual class's objects, at the operating point
        - "class_ap": class, AP, and the bounds of its interval (low, high)
        - "error_costs": error, AP50_cost
    """
    names = class_names(truth)
    rankings = {name: _Ranking(report.matches, slice(label, label + 1)) for label, name in enumerate(names)}
    rankings = {name: ranking for name, ranking in rankings.items() if ranking.objects}
    everything = _Ranking(report.matches, slice(None))
    at_scores = everything.at_scores()
    reached = max(1, int(np.count_nonzero(~np.isnan(at_scores["precision"]))))
    precisions = {name: ranking.precision_at_recalls() for name, ranking in rankings.items()}
    return {
        "precision_recall": {
            "recall": GRID,
            "precision": np.mean(list(precisions.values()) or [np.zeros(len(GRID))], axis=0),
        },
        "precision_recall_by_class": _by_class("recall", "precision", precisions),
        "scores": {name: values[:reached] for name, values in at_scores.items()},
        "f1_by_class": _by_class("score", "F1", {name: item.at_scores()["F1"] for name, item in rankings.items()}),
        "reliability": _reliability(everything),
        "confusion": _confusion(truth, detections, report),
        "class_ap": _class_ap(report.metrics["per_class"]),
        "error_costs": _error_costs(report.metrics["errors"]),
    }


class _Ranking:
    """The counted detections of some classes, highest score first, and the number of their objects."""

    def __init__(self, matches: Matches, classes: slice) -> None:
        threshold = int(np.argmin(abs(matches.iou_thresholds - IOU)))
        first, last = matches.class_starts[:-1][classes][0], matches.class_starts[1:][classes][-1]
        counted = first + np.flatnonzero(~matches.ignored[threshold, first:last])
        order = counted[np.argsort(-matches.scores[counted], kind="stable")]
        self.scores: Floats = matches.scores[order]
        self.correct = matches.correct[threshold, order]
        self.objects = int(matches.objects[classes].sum())

    def precision_at_recalls(self) -> Floats:
        """The highest precision at a recall of at least each value of the grid [101]."""
        return Curve(self.objects, self.correct).precision_at(len(GRID) - 1)

    def at_scores(self) -> dict[str, Floats]:
        """Precision, recall and F1 of the detections with at least each score of the grid [101]."""
        kept = len(self.scores) - np.searchsorted(self.scores[::-1], GRID)
        correct = np.append(0, np.cumsum(self.correct))[kept]
        return {
            "score": GRID,
            "precision": _divide(correct, kept),
            "recall": _divide(correct, np.full(len(GRID), self.objects)),
            "F1": _divide(2 * correct, kept + self.objects),
        }


def _divide(a: Any, b: Any) -> Floats:
    result: Floats = np.divide(a, b, out=np.full(len(a), np.nan), where=np.asarray(b) > 0)
    return result


def _by_class(x: str, y: str, curves: Mapping[str, Floats]) -> Table:
    """A row for each point of each curve: DVC's templates draw columns with known names."""
    return {
        "class": [name for name in curves for _ in GRID],
        x: [value for _ in curves for value in GRID],
        y: [value for curve in curves.values() for value in curve],
    }


def _reliability(ranking: _Ranking) -> Table:
    bins = np.clip((ranking.scores * _BINS).astype(int), 0, _BINS - 1)
    count = np.bincount(bins, minlength=_BINS)
    shown = count > 0
    scores = _divide(np.bincount(bins, ranking.scores, _BINS), count)[shown]
    return {
        "score": scores,
        "perfect": scores,
        "correct": _divide(np.bincount(bins, ranking.correct, _BINS), count)[shown],
        "detections": count[shown],
    }


def _confusion(truth: AnnotationSet, detections: Sequence[Detection], report: Report) -> Table:
    names = class_names(truth)
    kept = _at_operating_point(report.matches, report.operating_points, names)
    counts = coco.confusion_matrix(truth, [detections[index] for index in kept], iou_threshold=IOU)
    rows, columns = np.indices(counts.shape)
    labels = np.array([*names, BACKGROUND])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return {
        "actual": labels[rows.ravel()],
        "predicted": labels[columns.ravel()],
        "count": counts.ravel(),
        "share": shares.ravel(),
    }


def _at_operating_point(matches: Matches, points: OperatingPoints, names: Iterable[str]) -> list[int]:
    """Indices of the detections with at least the threshold of their class, without those of crowds and the like."""
    chosen = [points.classes[name] or points.all for name in names]
    lowest = np.repeat([point.score if point else 0.0 for point in chosen], np.diff(matches.class_starts))
    threshold = int(np.argmin(abs(matches.iou_thresholds - IOU)))
    kept: list[int] = matches.indices[(matches.scores >= lowest) & ~matches.ignored[threshold]].tolist()
    return sorted(kept)


def _class_ap(per_class: Mapping[str, Mapping[str, float | None]]) -> Table:
    known = {name: values for name, values in per_class.items() if values["AP"] is not None}
    columns = {"AP": "AP", "low": "AP_low", "high": "AP_high"}
    return {"class": list(known)} | {
        column: [np.nan if values[key] is None else values[key] for values in known.values()]
        for column, key in columns.items()
    }


def _error_costs(errors: Mapping[str, Mapping[str, float | None]]) -> Table:
    costs = {kind: error["AP50_cost"] for kind, error in errors.items() if error["AP50_cost"] is not None}
    return {"error": [kind.replace("_", " ") for kind in costs], "AP50_cost": list(costs.values())}
