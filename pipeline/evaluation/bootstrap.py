"""Intervals of AP by resampling images: how much AP would vary with other images of the same kind.

Images are drawn with replacement, as many as there are, and AP is computed for each draw (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993, chapter 13). Detections are matched once: a draw is a weighting of the images.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np

from pipeline.evaluation.matches import COCO_RECALLS, Counts, Floats, Matches

DRAWS = 500
CONFIDENCE = 0.95
_THREADS = 2  # numpy computes outside of Python's lock


@dataclass(frozen=True, slots=True)
class Interval:
    """The bounds that contain a metric with a confidence of 95 %; None for a metric without a value."""

    low: float | None
    high: float | None


def resample(matches: Matches, draws: int = DRAWS, seed: int = 0, *, recalls: Floats | None = COCO_RECALLS) -> Floats:
    """AP of each draw, class and IoU threshold [draws, K, T]; `recalls` as in `Matches.average_precision`.

    It is NaN for a class without objects in the drawn images, and for a single image, which shows no variation.
    """
    images = matches.objects.shape[1]
    if images < 2:
        return np.full((draws, len(matches.objects), len(matches.iou_thresholds)), np.nan)
    weights = draw_weights(images, draws, seed)
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.stack(list(pool.map(partial(matches.average_precision, recalls=recalls), weights)))


def draw_weights(images: int, draws: int, seed: int) -> Counts:
    """How often each image is drawn [draws, I]; the same for equal arguments, so that two detectors can be paired."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.int32)


def interval(values: Floats, estimate: float | None) -> Interval:
    """The bias-corrected percentile interval (Efron and Tibshirani, section 14.3, with an acceleration of 0).

    With few objects in a class, AP is higher than with many, and still higher in draws, which repeat objects. The plain
    percentiles would be too high; the correction moves them by the share of draws below the estimate.

    Args:
        values: [draws], the metric in each draw; NaN is left out.
        estimate: the metric of the images as they are.
    """
    known = values[~np.isnan(values)]
    if estimate is None or not known.size:
        return Interval(None, None)
    normal, tail = NormalDist(), (1 - CONFIDENCE) / 2
    below = (np.count_nonzero(known < estimate) + np.count_nonzero(known == estimate) / 2) / known.size
    bias = normal.inv_cdf(min(max(below, 0.5 / known.size), 1 - 0.5 / known.size))
    low, high = np.quantile(known, [normal.cdf(2 * bias + normal.inv_cdf(level)) for level in (tail, 1 - tail)])
    return Interval(float(low), float(high))


def difference_interval(draws: Floats, estimate: float, images: int) -> Interval:
    """The interval of a difference between two detectors: estimate ± t · standard deviation of its draws.

    A difference has no bias that would need correction, unlike AP, and a standard deviation varies less from set to set
    of draws than percentiles do. With few images, draws vary too little: Student's t and the factor √(n/(n − 1)) make
    up for that (Hesterberg, What Teachers Should Know About the Bootstrap, The American Statistician, 2015, section 4).

    Args:
        draws: [draws], the difference in each draw; NaN is left out.
        images: the number of images with objects.
    """
    known = draws[~np.isnan(draws)]
    if len(known) < 2 or images < 2:
        return Interval(None, None)
    reach = _student_t(1 - (1 - CONFIDENCE) / 2, images - 1) * float(known.std(ddof=1)) * (images / (images - 1)) ** 0.5
    return Interval(estimate - reach, estimate + reach)


def _student_t(level: float, freedom: int) -> float:
    """A quantile of Student's t distribution, to 0.2 % from five degrees of freedom on.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = NormalDist().inv_cdf(level)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def mean(values: Floats, axis: int) -> Floats:
    """The mean over an axis without NaN; NaN where nothing else is left."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis)
    result: Floats = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return result
