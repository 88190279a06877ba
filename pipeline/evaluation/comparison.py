"""Detectors compared on the same images: differences of metrics with intervals, and the images that changed.

Each detector is evaluated in the same draws of images, so that what makes an image easy or hard for both cancels out in
the difference.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, error_costs, error_kinds, operating_point, resampling, voc
from pipeline.evaluation.coco import CocoMetrics
from pipeline.evaluation.diagnostics import diagnose
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.evaluation.matches import Bools, Floats, Matches, class_names
from pipeline.evaluation.operating_point import OperatingPoints

IOU = operating_point.IOU  # lowest IoU of a correct detection, where images are compared
CLASS_METRICS = ("AP", "AP50")
# A metric has an interval if objects are in this many images. In five images, all changes have the same sign by chance
# in 6 % of the cases (2 / 2⁵), which is more than an interval of 95 % allows.
MIN_IMAGES = 6
_LIMITS = {"AR1": 1, "AR10": 10, "AR100": coco.MAX_DETECTIONS}
_SIZES = {"small": ("APs", "ARs"), "medium": ("APm", "ARm"), "large": ("APl", "ARl")}
_CALIBRATION_BINS = 10


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A detector's metrics, fractions of 1, in the images as they are (None: no value) and in each draw (NaN)."""

    values: Mapping[str, float | None]
    draws: Mapping[str, "Draws"]  # without the metrics of too few images
    class_values: Mapping[str, Mapping[str, float | None]]  # AP and AP50 by class name, in the order of the data set
    class_draws: Mapping[str, Mapping[str, "Draws"]]
    errors: Mapping[int, ImageErrors]  # at the operating point, by image id


@dataclass(frozen=True, eq=False)
class Draws:
    """A metric in each draw [draws], and the number of images with objects that it depends on."""

    values: Floats
    images: int


@dataclass(frozen=True, slots=True)
class Difference:
    """A metric of A and of B; `low` and `high` bound `difference`, B − A, with a confidence of 95 %."""

    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the images suffice to say which is better; None without an interval."""
        return None if self.low is None or self.high is None else self.low > 0 or self.high < 0


@dataclass(frozen=True, slots=True)
class ChangedImage:
    """An image with another number of errors; fractions are means over several detectors."""

    image_id: int
    a: float
    b: float


@dataclass(frozen=True)
class Comparison:
    """B compared with A."""

    metrics: Mapping[str, Difference]
    classes: Mapping[str, Mapping[str, Difference]]  # AP and AP50 of each class
    better: Sequence[ChangedImage]  # images with fewer errors, the largest change first
    worse: Sequence[ChangedImage]


def is_error(metric: str) -> bool:
    """Whether a metric is better when it is lower."""
    return metric.startswith("errors/") or metric == "calibration_error"


def evaluate(
    truth: AnnotationSet,
    detections: Sequence[Detection],
    *,
    chosen: OperatingPoints | None = None,
    draws: int | None = None,
) -> Evaluation:
    """Evaluates a detector for comparisons with others on the same ground truth.

    The metrics are those of `report.evaluate`: COCO's twelve, VOC's two, `operating_point/precision`, `recall` and
    `f1`, `calibration_error`, and the AP50 that each kind of error costs, `errors/KIND`.

    Args:
        chosen: the operating points that were chosen on other images; by default, they are chosen on these.
        draws: of the images; default: `resampling.DRAWS`.
    """
    draws = draws or resampling.DRAWS
    metrics = coco.evaluate(truth, detections)
    matches = Matches.of(metrics.evaluation)
    points = operating_point.measure(matches, truth, chosen) if chosen else operating_point.choose(matches, truth)
    names = class_names(truth)
    by_class = {name: metrics.per_class[name] for name in (category.name for category in truth.categories)}
    values = {**metrics.values, **_other_values(truth, detections, points)}
    errors = analyze_images(truth, detections, points)
    weights = resampling.draw_halves(len(truth.images), draws, seed=0).astype(np.float64)
    ap, images = resampling.resample(matches, draws), _count_images(matches.objects)
    measured_on = _measured_on(points, chosen, len(truth.images))
    resampled = {
        **_draws(_coco_draws(matches, ap, weights), images),
        **_draws(_voc_draws(voc.match(truth, detections), draws), images),
        **_draws({"calibration_error": _calibration_draws(matches, weights)}, images),
        **_draws(_error_cost_draws(truth, detections, metrics, matches, ap), images),
        **_draws_by_size(metrics.evaluation, weights),
        **_operating_point_draws(matches, points, names, weights * measured_on),
    }
    mean_ap = resampling.mean(ap, axis=2)
    class_draws = {
        name: _draws({"AP": mean_ap[:, label], "AP50": ap[:, label, 0]}, _count_images(matches.objects[[label]]))
        for label, name in enumerate(names)
    }
    return Evaluation(values, resampled, by_class, class_draws, errors)


def _draws(values: Mapping[str, Floats], images: int) -> dict[str, Draws]:
    """Empty if the images are too few for an interval."""
    return {name: Draws(draws, images) for name, draws in values.items()} if images >= MIN_IMAGES else {}


def _count_images(objects: Floats) -> int:
    """The number of images with objects [K, I]."""
    return int(np.count_nonzero(objects.sum(axis=0)))


def _other_values(
    truth: AnnotationSet, detections: Sequence[Detection], points: OperatingPoints
) -> dict[str, float | None]:
    voc_metrics, diagnosis, point = voc.evaluate(truth, detections), diagnose(truth, detections), points.summary()
    return {
        "mAP50_11point": voc_metrics.mAP50_11point,
        "mAP50_area": voc_metrics.mAP50_area,
        **{f"operating_point/{name}": point[name] for name in ("precision", "recall", "f1")},
        "calibration_error": diagnosis["calibration_error"],
        **{f"errors/{kind}": error["AP50_cost"] for kind, error in diagnosis["errors"].items()},
    }


def _coco_draws(matches: Matches, ap: Floats, weights: Floats) -> dict[str, Floats]:
    thresholds = list(matches.iou_thresholds.round(2))
    return {
        "AP": _mean(ap),
        "AP50": _mean(ap[:, :, [0]]),
        "AP75": _mean(ap[:, :, [thresholds.index(0.75)]]),
        **{name: _mean(matches.recall(weights, limit)) for name, limit in _LIMITS.items()},
    }


def _draws_by_size(evaluation: object, weights: Floats) -> dict[str, Draws]:
    draws: dict[str, Draws] = {}
    for size, (precision, recall) in _SIZES.items():
        matches = Matches.of(evaluation, size)
        images = _count_images(matches.objects)
        if images >= MIN_IMAGES:
            found = _mean(matches.recall(weights, coco.MAX_DETECTIONS))
            draws |= _draws({precision: _mean(resampling.resample(matches, len(weights))), recall: found}, images)
    return draws


def _voc_draws(matches: Matches, draws: int) -> dict[str, Floats]:
    return {
        "mAP50_11point": _mean(resampling.resample(matches, draws, recalls=voc.RECALLS_2007)),
        "mAP50_area": _mean(resampling.resample(matches, draws, recalls=None)),
    }


def _error_cost_draws(
    truth: AnnotationSet, detections: Sequence[Detection], metrics: CocoMetrics, matches: Matches, ap: Floats
) -> dict[str, Floats]:
    without = error_costs.correct_errors(truth, detections, metrics.evaluation, matches)
    return {f"errors/{kind}": error_costs.resample(corrected, ap[..., 0]) for kind, corrected in without.items()}


def _measured_on(points: OperatingPoints, chosen: OperatingPoints | None, images: int) -> Bools:
    """The images [I] on which `operating_point` measures precision and recall."""
    halved = points.confirmed and chosen is None
    return np.arange(images) % 2 == 1 if halved else np.ones(images, dtype=bool)


def _operating_point_draws(
    matches: Matches, points: OperatingPoints, names: Sequence[str], weights: Floats
) -> dict[str, Draws]:
    """Precision, recall and F1 with the thresholds as they are, means over the classes with objects.

    Images without detections at the thresholds tell nothing about precision: it has an interval if enough others do.
    """
    thresholds = np.array([point.score if (point := points.classes[name]) else np.nan for name in names])
    row = int(np.argmin(abs(matches.iou_thresholds - operating_point.IOU)))
    kept = (matches.scores >= thresholds[matches.labels]) & ~matches.ignored[row]
    correct = matches.count(kept & matches.correct[row]) @ weights.T  # [K, draws]
    kept_in, objects_in = matches.count(kept), matches.objects  # [K, I]
    detections, objects = kept_in @ weights.T, objects_in @ weights.T
    chosen = ~np.isnan(thresholds) & objects.any(axis=1)
    ratios = {
        "precision": (correct, detections),
        "recall": (correct, objects),
        "f1": (2 * correct, detections + objects),
    }
    measured_on = weights.any(axis=0)
    with_objects, detected = (_count_images(values[:, measured_on]) for values in (objects_in, kept_in))
    images = {"precision": min(with_objects, detected), "recall": with_objects, "f1": with_objects}
    draws: dict[str, Draws] = {}
    for name, (part, whole) in ratios.items():
        values = {f"operating_point/{name}": resampling.mean(_ratio(part, whole)[chosen], axis=0)}
        draws |= _draws(values, images[name])
    return draws


def _calibration_draws(matches: Matches, weights: Floats) -> Floats:
    """The expected calibration error, as in `diagnose`."""
    row = int(np.argmin(abs(matches.iou_thresholds - operating_point.IOU)))
    counted = ~matches.ignored[row]
    scores, images = matches.scores[counted], matches.images[counted]
    if not len(scores) or scores.min() < 0 or scores.max() > 1:
        return np.full(len(weights), np.nan)
    bins = np.minimum((scores * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1)
    gaps = np.zeros((_CALIBRATION_BINS, weights.shape[1]))
    np.add.at(gaps, (bins, images), scores - matches.correct[row][counted])
    return _ratio(abs(gaps @ weights.T).sum(axis=0), np.bincount(images, minlength=weights.shape[1]) @ weights.T)


def _ratio(part: Floats, whole: Floats) -> Floats:
    result: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return result


def _mean(values: Floats) -> Floats:
    """[draws, K, T] to [draws]."""
    return resampling.mean(resampling.mean(values, axis=2), axis=1)


def analyze_images(
    truth: AnnotationSet, detections: Sequence[Detection], points: OperatingPoints
) -> dict[int, ImageErrors]:
    """The errors of each image, by image id, with the detections that reach the threshold of their class.

    A class for which no threshold was chosen has that for all classes, and no detection if there is none.
    """
    default = points.all.score if points.all else np.inf
    chosen = {category.id: points.classes[category.name] for category in truth.categories}
    lowest = {category: point.score if point else default for category, point in chosen.items()}
    kept = [detection for detection in detections if detection.score >= lowest[detection.category_id]]
    return error_kinds.analyze(truth, kept, score_threshold=-np.inf, iou_threshold=IOU)


def compare(a: Sequence[Evaluation], b: Sequence[Evaluation]) -> Comparison:
    """Compares B with A. Each is one detector, or several that differ in the seed of their training alone: their mean.

    All must be evaluated on the same ground truth, with the same number of draws.
    """
    better, worse = _changed_images(a, b)
    return Comparison(
        metrics={
            name: _difference(
                [(item.values[name], item.draws.get(name)) for item in a],
                [(item.values[name], item.draws.get(name)) for item in b],
            )
            for name in a[0].values
        },
        classes={
            name: {
                metric: _difference(
                    [(item.class_values[name][metric], item.class_draws.get(name, {}).get(metric)) for item in a],
                    [(item.class_values[name][metric], item.class_draws.get(name, {}).get(metric)) for item in b],
                )
                for metric in CLASS_METRICS
            }
            for name in a[0].class_values
        },
        better=better,
        worse=worse,
    )


_Metric = tuple[float | None, Draws | None]


def _difference(a: Sequence[_Metric], b: Sequence[_Metric]) -> Difference:
    before, after = mean(value for value, _ in a), mean(value for value, _ in b)
    if before is None or after is None:
        return Difference(before, after, None, None, None)
    draws = [[draws for _, draws in side if draws is not None] for side in (a, b)]
    if not all(draws):
        return Difference(before, after, after - before, None, None)
    first, second = (resampling.mean(np.stack([item.values for item in side]), axis=0) for side in draws)
    found = resampling.difference_interval(second - first, after - before, draws[0][0].images)
    return Difference(before, after, after - before, found.low, found.high)


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None if there is none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def deviation(values: Iterable[float | None]) -> float | None:
    """The standard deviation of the values that are known, as of a sample; None for fewer than two."""
    known = [value for value in values if value is not None]
    return stdev(known) if len(known) > 1 else None


def _changed_images(
    a: Sequence[Evaluation], b: Sequence[Evaluation]
) -> tuple[tuple[ChangedImage, ...], tuple[ChangedImage, ...]]:
    """Images with fewer and with more errors. Of equal changes, that with the larger change of IoUs is first."""
    changes = []
    for image in a[0].errors:
        before, after = (fmean(item.errors[image].count for item in side) for side in (a, b))
        if before != after:
            gain = _total_iou(b, image) - _total_iou(a, image)
            changes.append((before - after, gain, ChangedImage(image, before, after)))
    changes.sort(key=lambda change: (-change[0], -change[1]))
    better = tuple(image for gain, _, image in changes if gain > 0)
    return better, tuple(image for gain, _, image in reversed(changes) if gain < 0)


def _total_iou(side: Sequence[Evaluation], image: int) -> float:
    """The IoUs of the correct detections of an image together."""
    return fmean(sum(verdict.iou for verdict in item.errors[image].of("correct")) for item in side)
