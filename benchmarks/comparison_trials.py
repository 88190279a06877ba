"""How often a comparison finds a difference of AP, with and without one: `python -m benchmarks.comparison_trials`.

Each trial draws a data set and two synthetic detectors of its images. What makes an object easy is the same for both;
box, score and the decision to detect it vary from detector to detector, as between two trainings. A difference is found
if the 95 % interval excludes 0. The second detector is either equally good, or better by one
point of AP, which is the AP of very many images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks.interval_coverage import IMAGES_FOR_TRUTH, detect, to_matches
from pipeline.evaluation import resampling
from pipeline.evaluation.matches import Floats, Matches

POINT = 0.01  # of AP
# Standard deviation of the ease that differs between detectors; that of all variation is 1. With it, the difference
# between two detectors varies from half to half 0.42 times as much as the AP of one: that of pairs of real trainings
# varies 0.40 to 0.44 times as much.
OWN_VARIATION = 0.35
# Classes, mean number of objects of each in an image, images.
CASES = ((3, 2.0, 2000), (3, 2.0, 2500), (3, 2.0, 100))
TRIALS = 100


@dataclass(frozen=True, eq=False)
class Scenes:
    """Images with objects, and how easy each object is to detect."""

    objects: NDArray[np.int64]  # [K, I], their number
    difficulty: list[Floats]  # of each class, [I]
    ease: list[Floats]  # of each class, one for each object
    wrong_per_image: float


def draw_scenes(images: int, classes: int, objects_per_image: float, rng: np.random.Generator) -> Scenes:
    crowding, difficulty = rng.gamma(1, 1, (1, images)), rng.normal(0, 0.8, images)
    objects = rng.poisson(objects_per_image * crowding, (classes, images))
    by_class = [difficulty + offset for offset in np.linspace(-0.7, 0.7, classes)]
    shared = (1 - OWN_VARIATION**2) ** 0.5
    ease = [
        1 - np.repeat(hard, counts) + rng.normal(0, shared, counts.sum())
        for counts, hard in zip(objects, by_class, strict=True)
    ]
    return Scenes(objects, by_class, ease, objects_per_image / 2)


def run_detector(scenes: Scenes, gain: float, rng: np.random.Generator) -> Matches:
    """Matches of a detector for which every object is easier by `gain`."""
    parts = [
        detect(counts, hard, scenes.wrong_per_image, rng, ease + gain + rng.normal(0, OWN_VARIATION, len(ease)))
        for counts, hard, ease in zip(scenes.objects, scenes.difficulty, scenes.ease, strict=True)
    ]
    return to_matches(parts, scenes.objects)


def ap(matches: Matches) -> float:
    return float(np.nanmean(matches.average_precision()))


@cache
def gain_of_one_point(classes: int, objects_per_image: float) -> float:
    """The gain that raises AP by one point, by bisection on the same very many images."""

    def raised(gain: float) -> float:
        return ap(run_detector(scenes, gain, np.random.default_rng(1))) - plain

    scenes = draw_scenes(IMAGES_FOR_TRUTH, classes, objects_per_image, np.random.default_rng(0))
    plain = ap(run_detector(scenes, 0.0, np.random.default_rng(1)))
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if raised(middle) > POINT else (middle, high)
    return (low + high) / 2


def find(a: Matches, b: Matches, draws_of_a: Floats) -> int:
    """1 if B is found to be better than A, −1 if worse, 0 if there is no difference."""
    images = int(np.count_nonzero(a.objects.sum(axis=0)))
    interval = resampling.difference_interval(draw_ap(b, len(draws_of_a)) - draws_of_a, ap(b) - ap(a), images)
    assert interval.low is not None
    assert interval.high is not None
    return int(interval.low > 0) - int(interval.high < 0)


def draw_ap(matches: Matches, draws: int) -> Floats:
    values: Floats = np.nanmean(resampling.resample(matches, draws), axis=(1, 2))
    return values


def run_trials(
    classes: int,
    objects_per_image: float,
    images: int,
    gain: float,
    trials: int,
    rng: np.random.Generator,
    draws: int = resampling.DRAWS,
) -> tuple[list[int], list[int]]:
    """What is found for an equally good detector, and for a better one, in each trial."""
    equal, better = [], []
    for _ in range(trials):
        scenes = draw_scenes(images, classes, objects_per_image, rng)
        a, b, c = (run_detector(scenes, raised, rng) for raised in (0.0, 0.0, gain))
        draws_of_a = draw_ap(a, draws)
        equal.append(find(a, b, draws_of_a))
        better.append(find(a, c, draws_of_a))
    return equal, better


def main(cases: Sequence[tuple[int, float, int]] = CASES, trials: int = TRIALS) -> None:
    """Prints the table of the card."""
    rng = np.random.default_rng(0)
    print("| classes | objects of a class in an image | images | trials | equal: no difference | +1 point: found |")
    print("|---" * 6 + "|")
    for classes, objects, images in cases:
        equal, better = run_trials(classes, objects, images, gain_of_one_point(classes, objects), trials, rng)
        counts = equal.count(0), better.count(1)
        print(f"| {classes} | {objects} | {images} | {trials} |", *(f"{count} |" for count in counts), flush=True)


if __name__ == "__main__":
    main()
