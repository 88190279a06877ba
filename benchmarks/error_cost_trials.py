"""How often a comparison finds a difference in the AP50 that an error costs: `python -m benchmarks.error_cost_trials`.

Each trial draws a data set and three synthetic detectors of its images: A, an equally good one, and one that makes
twice as many errors of three kinds. What makes an object easy is the same for all. A difference is found if the 95 %
interval excludes 0.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, error_costs, resampling
from pipeline.evaluation.matches import Floats, Matches

CASES = ((100, 100),)  # images, trials
CLASSES, OBJECTS_PER_IMAGE, SIDE = 3, 4, 640
MORE = ("wrong_class", "duplicate", "background")  # the kinds of which the third detector makes more


@dataclass(frozen=True)
class Rates:
    """Probabilities that a detected object has another class, and that it is detected twice; detections of nothing."""

    wrong_class: float = 0.08
    duplicate: float = 0.1
    background: float = 1.0  # mean number in an image


@dataclass(frozen=True, eq=False)
class Scenes:
    truth: AnnotationSet
    ease: Floats  # of each object


def draw_scenes(images: int, rng: np.random.Generator) -> Scenes:
    annotations, ease = list[Annotation](), list[float]()
    for image in range(images):
        difficulty = rng.normal(0, 0.8)
        for _ in range(rng.poisson(OBJECTS_PER_IMAGE)):
            box = _random_box(rng)
            label = int(rng.integers(1, CLASSES + 1))
            annotations.append(Annotation(len(annotations) + 1, image, label, box, box[2] * box[3]))
            ease.append(1 - difficulty + rng.normal(0, 0.9))
    pictures = tuple(Image(number, f"{number}.jpg", SIDE, SIDE) for number in range(images))
    classes = tuple(Category(label, f"class {label}") for label in range(1, CLASSES + 1))
    return Scenes(AnnotationSet(classes, pictures, tuple(annotations)), np.array(ease))


def run_detector(scenes: Scenes, rates: Rates, rng: np.random.Generator) -> list[Detection]:
    """Detections near most objects, with the errors of these rates, and others anywhere."""
    found = list[Detection]()
    ease = scenes.ease + rng.normal(0, 0.35, len(scenes.ease))
    for item, ease_of_item in zip(scenes.truth.annotations, ease, strict=True):
        if ease_of_item < -0.2:
            continue
        for _ in range(1 + int(rng.random() < rates.duplicate)):
            noise = rng.normal(0, 0.08 * np.exp(-ease_of_item / 2), 4) * np.tile(item.bbox[2:], 2)
            box = (*(np.array(item.bbox[:2]) + noise[:2]), *np.maximum(np.array(item.bbox[2:]) + noise[2:], 1))
            label = item.category_id
            if rng.random() < rates.wrong_class:
                label = label % CLASSES + 1
            score = 1 / (1 + np.exp(-ease_of_item - rng.normal(0, 0.5)))
            found.append(Detection(item.image_id, label, tuple(map(float, box)), float(score)))  # type: ignore[arg-type]
    for image in scenes.truth.images:
        for _ in range(rng.poisson(rates.background)):
            score = 1 / (1 + np.exp(1 - rng.normal(0, 1)))
            found.append(Detection(image.id, int(rng.integers(1, CLASSES + 1)), _random_box(rng), float(score)))
    return found


def _random_box(rng: np.random.Generator) -> tuple[float, float, float, float]:
    width, height = np.exp(rng.normal(4, 0.5, 2)).clip(20, 200)
    x, y = rng.random(2) * (SIDE - 200)
    return float(x), float(y), float(width), float(height)


def costs(scenes: Scenes, found: Sequence[Detection]) -> dict[str, tuple[float, Floats]]:
    """What each kind of error costs, in all images and in each draw."""
    evaluation = coco.evaluate(scenes.truth, found).evaluation
    matches = Matches.of(evaluation)
    ap50, draws = matches.average_precision()[:, 0], resampling.resample(matches)[..., 0]
    return {
        kind: (
            float(np.nanmean(np.nan_to_num(without.average_precision()[:, 0]) - ap50)),
            error_costs.resample(without, draws),
        )
        for kind, without in error_costs.correct_errors(scenes.truth, found, evaluation, matches).items()
    }


def run_trials(images: int, trials: int, rng: np.random.Generator) -> tuple[Counter[str], Counter[str], Floats]:
    """How often each kind differs for an equal detector, how often more errors are found, and what the latter cost."""
    equal, more, rates = Counter[str](), Counter[str](), Rates()
    twice = Rates(**{kind: 2 * getattr(rates, kind) for kind in MORE})
    gains = []
    for _ in range(trials):
        scenes = draw_scenes(images, rng)
        a, b, c = (costs(scenes, run_detector(scenes, chosen, rng)) for chosen in (rates, rates, twice))
        counts = np.count_nonzero(np.bincount([item.image_id for item in scenes.truth.annotations]))
        for kind in a:
            differs = [
                resampling.difference_interval(other[kind][1] - a[kind][1], other[kind][0] - a[kind][0], int(counts))
                for other in (b, c)
            ]
            equal[kind] += not (differs[0].low <= 0 <= differs[0].high)  # type: ignore[operator]
            more[kind] += differs[1].low > 0  # type: ignore[operator]
        gains.append([c[kind][0] - a[kind][0] for kind in a])
    return equal, more, np.mean(gains, axis=0)


def main(cases: Sequence[tuple[int, int]] = CASES) -> None:
    """Prints the table of the card."""
    rng = np.random.default_rng(0)
    print("| images | trials | error | equal: a difference | twice as many: found | they cost more by |")
    print("|---" * 6 + "|")
    for images, trials in cases:
        equal, more, gains = run_trials(images, trials, rng)
        for kind, gain in zip([*error_costs.KINDS], gains, strict=True):
            name = kind.replace("_", " ")
            print(f"| {images} | {trials} | {name} | {equal[kind]} | {more[kind]} | {gain:+.4f} |", flush=True)


if __name__ == "__main__":
    main()
