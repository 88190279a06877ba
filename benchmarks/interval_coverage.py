"""How often the intervals of AP contain the true AP, on a synthetic detector: `python -m benchmarks.interval_coverage`.

The true AP is that of very many images. Each trial draws a data set and computes its 95 % interval by three methods
from the same draws: plain percentiles, the basic bootstrap (percentiles mirrored at the estimate), and the
bias-corrected percentiles that the pipeline reports.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import bootstrap
from pipeline.evaluation.bootstrap import Interval
from pipeline.evaluation.matches import Floats, Matches

THRESHOLDS = np.linspace(0.5, 0.95, 10)
CASES = ((3, 2.0, 100, 400), (3, 2.0, 500, 200), (40, 0.1, 100, 400), (40, 0.1, 500, 200))
IMAGES_FOR_TRUTH = 60_000
_METHODS: dict[str, Callable[[Floats, float], Interval]] = {
    "percentiles": lambda draws, _: Interval(*np.quantile(draws, (0.025, 0.975))),
    "basic": lambda draws, estimate: Interval(*(2 * estimate - np.quantile(draws, (0.975, 0.025)))),
    "bias-corrected": bootstrap.interval,
}


def synthetic_matches(images: int, classes: int, objects_per_image: float, rng: np.random.Generator) -> Matches:
    """Matches of a synthetic detector.

    Crowded images and difficult images make detections dependent; some classes are more difficult than others.

    Args:
        objects_per_image: mean number of objects of each class.
    """
    crowding, difficulty = rng.gamma(1, 1, (1, images)), rng.normal(0, 0.8, images)
    objects = rng.poisson(objects_per_image * crowding, (classes, images))
    parts = [
        detect(counts, difficulty + class_difficulty, objects_per_image / 2, rng)
        for counts, class_difficulty in zip(objects, np.linspace(-0.7, 0.7, classes), strict=True)
    ]
    return to_matches(parts, objects)


DetectionsOfClass = tuple[NDArray[np.int64], Floats, NDArray[np.bool_]]


def to_matches(parts: Sequence[DetectionsOfClass], objects: NDArray[np.int64]) -> Matches:
    """Matches of the detections of each class; `objects` is their number in each class and image [K, I]."""
    found, scores, correct = (np.concatenate(arrays, axis=-1) for arrays in zip(*parts, strict=True))
    starts = np.cumsum([0, *(len(part[0]) for part in parts)])
    indices, ignored = np.arange(len(found)), np.zeros_like(correct)
    return Matches(THRESHOLDS, starts, indices, found, scores, correct, ignored, objects.astype(np.float64))


def detect(
    counts: NDArray[np.int64],
    difficulty: Floats,
    wrong_per_image: float,
    rng: np.random.Generator,
    ease: Floats | None = None,
) -> DetectionsOfClass:
    """Image, score and correctness of each detection of a class, by descending score.

    Args:
        ease: of each object; drawn by default.
    """
    objects = np.repeat(np.arange(len(counts)), counts)
    wrong = np.repeat(np.arange(len(counts)), rng.poisson(wrong_per_image * np.exp(difficulty / 2)))
    ease = 1 - difficulty[objects] + rng.normal(0, 1, len(objects)) if ease is None else ease
    ious = np.concatenate([0.74 + 0.08 * ease + rng.normal(0, 0.09, len(objects)), np.zeros(len(wrong))])
    scores = np.concatenate([ease + rng.normal(0, 1, len(objects)), rng.normal(-1.2, 1.2, len(wrong))])
    detected = np.concatenate([ease > -0.2, np.ones(len(wrong), dtype=bool)])
    order = np.argsort(-scores[detected])
    correct = ious[detected][order] >= THRESHOLDS[:, None]
    return np.concatenate([objects, wrong])[detected][order], scores[detected][order], correct


def true_ap(classes: int, objects_per_image: float, rng: np.random.Generator) -> float:
    return float(np.nanmean(synthetic_matches(IMAGES_FOR_TRUTH, classes, objects_per_image, rng).average_precision()))


def coverage(
    truth: float, images: int, classes: int, objects_per_image: float, trials: int, rng: np.random.Generator
) -> tuple[dict[str, float], float]:
    """The share of trials whose interval contains the true AP, by method, and the mean error of the estimate."""
    contained, error = dict.fromkeys(_METHODS, 0), 0.0
    for _ in range(trials):
        matches = synthetic_matches(images, classes, objects_per_image, rng)
        estimate = float(np.nanmean(matches.average_precision()))
        draws = np.nanmean(bootstrap.resample(matches), axis=(1, 2))
        error += (estimate - truth) / trials
        for name, method in _METHODS.items():
            found = method(draws, estimate)
            contained[name] += found.low is not None and found.high is not None and found.low <= truth <= found.high
    return {name: count / trials for name, count in contained.items()}, error


def main(cases: Sequence[tuple[int, float, int, int]] = CASES) -> None:
    """Prints the table of the card."""
    rng = np.random.default_rng(0)
    print("| classes | objects a class, image | images | trials | mean error of AP", *_METHODS, "", sep=" | ")
    print("|---" * (5 + len(_METHODS)) + "|")
    for classes, objects, images, trials in cases:
        truth = true_ap(classes, objects, rng)
        shares, error = coverage(truth, images, classes, objects, trials, rng)
        values = (f"{share:.1%}" for share in shares.values())
        print(f"| {classes} | {objects} | {images} | {trials} | {error:+.4f}", *values, "", sep=" | ", flush=True)


if __name__ == "__main__":
    main()
