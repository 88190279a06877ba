"""Intervals of AP by resampling images: how much AP would vary with other images of the same kind.

AP is computed for random halves of the images, drawn without replacement. A mean over half of the images varies around
that of all as much as that of all varies around the mean of very many images (Efron, The Jackknife, the Bootstrap and
Other Resampling Plans, 1982, chapter 8). Unlike the draws of a bootstrap, which repeat images, halves also show how AP
depends on the number of images. Detections are matched once.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist

import numpy as np

from pipeline.evaluation.matches import COCO_RECALLS, Bools, Floats, Matches

DRAWS = 200
CONFIDENCE = 0.95
# COCO's precision at a recall is the highest at any greater recall, which favors chance: AP of n images is too high by
# about n to the power of −2/3, the rate of estimates of a decreasing curve. Measured: benchmarks/interval_coverage.py.
_BIAS_RATIO = 2 ** (2 / 3) - 1  # how much higher AP of a half is than that of all, by the bias of the latter
# With fewer objects in a class, halves have too few to tell the bias. Measured: benchmarks/interval_coverage.py.
FEW_OBJECTS = 20
_THREADS = 2  # numpy computes outside of Python's lock


@dataclass(frozen=True, slots=True)
class Interval:
    """The bounds that contain a metric with a confidence of 95 %; None for a metric without a value."""

    low: float | None
    high: float | None


def resample(matches: Matches, draws: int = DRAWS, seed: int = 0, *, recalls: Floats | None = COCO_RECALLS) -> Floats:
    """AP of each draw, class and IoU threshold [draws, K, T]; `recalls` as in `Matches.average_precision`.

    It is NaN for a class without objects in the drawn images, and for a single image, which has no half.
    """
    drawn = draw_halves(matches.objects.shape[1], draws, seed)
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.stack(list(pool.map(partial(matches.average_precision, recalls=recalls), drawn)))


def draw_halves(images: int, draws: int, seed: int) -> Bools:
    """Which images are in each of the random halves [draws, I]; of an odd number, the half is rounded down.

    They are the same for equal arguments, so that two detectors can be paired.
    """
    half = np.tile(np.arange(images) < images // 2, (draws, 1))
    return np.random.default_rng(seed).permuted(half, axis=1)


def interval(
    values: Floats, estimate: float | None, objects: Floats, *, leave_one_out: float | None = None
) -> Interval:
    """The interval of the AP that very many images would give.

    The estimate is corrected by its bias, for which the AP of halves is higher than that of all images. Around it, the
    interval is symmetric in the logarithm of AP / (1 − AP), so that it stays between 0 and 1. Its length is that of
    Student's t distribution, with an image for each that counts fully: few images with most objects count less.

    Where everything or nothing is found, draws don't vary: the interval is that of half an object missed or found. The
    estimate always lies in its interval.

    Args:
        values: [draws], the metric in each draw; NaN is left out.
        estimate: the metric of the images as they are.
        objects: [I], the number of objects in each image.
        leave_one_out: another estimate, for classes with so few objects that halves don't tell the bias: the interval
            reaches from the lower bound around the lowest estimate to the upper bound around the one not corrected.
    """
    known = values[~np.isnan(values)]
    if estimate is None or len(known) < 2 or np.count_nonzero(objects) < 2:
        return Interval(None, None)
    corrected = estimate - (float(known.mean()) - estimate) / _BIAS_RATIO
    low, high = _bounds(corrected, known, objects)
    if leave_one_out is not None:
        low, high = min(low, _bounds(leave_one_out, known, objects)[0]), max(high, _bounds(estimate, known, objects)[1])
    return Interval(min(low, estimate), max(high, estimate))


def _bounds(center: float, values: Floats, objects: Floats) -> tuple[float, float]:
    total = float(objects.sum())
    half_object = 0.5 / total
    center = min(max(center, half_object), 1 - half_object)
    deviation = max(float(values.std(ddof=1)), half_object)
    reach = _student_t(total**2 / float(objects @ objects) - 1) * deviation / (center * (1 - center))
    logit = math.log(center / (1 - center))
    return _inverse_logit(logit - reach), _inverse_logit(logit + reach)


def intervals_of_means(matches: Matches, draws: Floats) -> dict[str, Interval]:
    """The intervals of AP and AP50, from the AP of each draw, class and IoU threshold [draws, K, T]."""
    estimate, objects = matches.average_precision(), matches.objects.sum(axis=1)
    few = (objects > 0) & (objects < FEW_OBJECTS)
    by_halves = estimate - (mean(draws, axis=0) - estimate) / _BIAS_RATIO
    other = np.where(few[:, None], matches.leave_one_out_precision(), by_halves) if few.any() else None
    return {
        name: interval(
            _mean_of_classes(draws[..., thresholds]),
            _known(_mean_of_classes(estimate[:, thresholds])),
            matches.objects.sum(axis=0),
            leave_one_out=None if other is None else _known(_mean_of_classes(other[:, thresholds])),
        )
        for name, thresholds in (("AP", slice(None)), ("AP50", slice(1)))
    }


def _mean_of_classes(ap: Floats) -> Floats:
    """[..., K, T] to [...]."""
    return mean(mean(ap, axis=-1), axis=-1)


def _known(value: Floats) -> float | None:
    return None if np.isnan(value) else float(value)


def difference_interval(draws: Floats, estimate: float, images: int) -> Interval:
    """The interval of a difference between two detectors: estimate ± t · standard deviation of its draws.

    A difference needs no correction: AP of both is too high by nearly as much.

    Args:
        draws: [draws], the difference in each draw; NaN is left out.
        images: the number of images with objects.
    """
    known = draws[~np.isnan(draws)]
    if len(known) < 2 or images < 2:
        return Interval(None, None)
    reach = _student_t(images - 1) * float(known.std(ddof=1))
    return Interval(estimate - reach, estimate + reach)


def _inverse_logit(value: float) -> float:
    return (1 + math.tanh(value / 2)) / 2  # unlike 1 / (1 + exp(−value)), it never overflows


def _student_t(freedom: float) -> float:
    """The quantile of Student's t distribution that bounds CONFIDENCE, to 0.2 % from five degrees of freedom on.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5.
    """
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
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
