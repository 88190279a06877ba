"""How often the intervals of AP contain the true AP, on a synthetic detector: `python -m benchmarks.interval_coverage`.

The true AP is that of very many images. Each trial draws a data set and computes the 95 % intervals of AP, AP50 and
each class's AP as the pipeline reports them.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import resampling
from pipeline.evaluation.matches import Floats, Matches

THRESHOLDS = np.linspace(0.5, 0.95, 10)
# Classes, mean number of objects of each in an image, images, trials.
CASES = (
    *(
        (classes, objects, images, trials)
        for classes, objects in ((3, 2.0), (40, 0.1))
        for images, trials in ((100, 400), (500, 200), (2000, 50))
    ),
    (20, 0.05, 100, 400),
    (30, 0.03, 100, 400),
    (60, 0.01, 100, 100),
)
IMAGES_FOR_TRUTH = 200_000


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


def metrics(ap: Floats) -> Floats:
    """AP, AP50 and each class's AP [..., 2 + K], from those of each class and IoU threshold [..., K, T]."""
    by_class = resampling.mean(ap, axis=-1)
    means = [resampling.mean(by_class, axis=-1), resampling.mean(ap[..., 0], axis=-1)]
    return np.concatenate([np.stack(means, axis=-1), by_class], axis=-1)


def true_metrics(
    classes: int, objects_per_image: float, rng: np.random.Generator, images: int = IMAGES_FOR_TRUTH
) -> Floats:
    return metrics(synthetic_matches(images, classes, objects_per_image, rng).average_precision())


def intervals(matches: Matches, draws: int = resampling.DRAWS) -> tuple[Floats, Floats]:
    """The metrics [2 + K] and their intervals [2 + K, 2] as the pipeline reports them; NaN: no interval."""
    ap, draws_of_ap = matches.average_precision(), resampling.resample(matches, draws)
    values, by_class = metrics(ap), resampling.mean(draws_of_ap, axis=-1)
    items = [
        *resampling.intervals_of_means(matches, draws_of_ap).values(),
        *(
            resampling.interval(column, None if np.isnan(value) else float(value), objects)
            for column, value, objects in zip(by_class.T, values[2:], matches.objects, strict=True)
        ),
    ]
    return values, np.array([(item.low, item.high) for item in items], dtype=np.float64)


def main(cases: Sequence[tuple[int, float, int, int]] = CASES) -> None:
    """Prints the table of the card."""
    rng = np.random.default_rng(0)
    print("| classes | objects a class, image | images | trials | errors of AP, AP50 | AP | AP50 | each class's AP |")
    print("|---" * 8 + "|")
    for classes, objects, images, trials in cases:
        truth = true_metrics(classes, objects, rng)
        results = [intervals(synthetic_matches(images, classes, objects, rng)) for _ in range(trials)]
        errors = np.mean([values - truth for values, _ in results], axis=0)
        low, high = np.array([bounds for _, bounds in results]).transpose(2, 0, 1)
        contained = np.where(np.isnan(low), np.nan, (low <= truth) & (truth <= high))
        shares = (f"{np.nanmean(contained[:, part]):.1%}" for part in (0, 1, slice(2, None)))
        case = f"| {classes} | {objects} | {images} | {trials} | {errors[0]:+.4f}, {errors[1]:+.4f}"
        print(case, *shares, "", sep=" | ", flush=True)


if __name__ == "__main__":
    main()
