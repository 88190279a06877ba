"""Time of the evaluation at COCO's size, and both engines side by side: `python -m benchmarks.evaluation`.

Ground truth and detections are synthetic: as many images, objects and classes as COCO's val2017 has, as unevenly
distributed, and 100 detections in each image, the most that COCO counts.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar
from unittest.mock import patch

import numpy as np

from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, object_sizes, operating_point, report, resampling, voc
from pipeline.evaluation.diagnostics import diagnose
from pipeline.evaluation.matches import Matches
from pipeline.evaluation.plot_tables import plot_tables
from pipeline.visualization.evaluation_plots import write_plots

IMAGES, OBJECTS, CLASSES, DETECTIONS_PER_IMAGE = 5000, 36_000, 80, 100
_Value = TypeVar("_Value")


def scenes(
    images: int = IMAGES,
    objects: int = OBJECTS,
    detections_per_image: int = DETECTIONS_PER_IMAGE,
    classes: int = CLASSES,
) -> tuple[AnnotationSet, tuple[Detection, ...]]:
    """Objects of classes of very different frequency; detections near most objects, and others anywhere."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(1, classes + 1)
    where = np.sort(rng.choice(images, objects, p=(crowding := rng.gamma(1, 1, images)) / crowding.sum()))
    labels = rng.choice(classes, objects, p=frequency / frequency.sum())
    boxes = _random_boxes(objects, rng)
    found = np.flatnonzero(rng.random(objects) < 0.8)
    near = boxes[found] + rng.normal(0, 0.06, (len(found), 4)) * boxes[found][:, [2, 3, 2, 3]]
    wrong = images * detections_per_image - len(found)
    images_of = np.concatenate([where[found], rng.choice(images, wrong)])
    detected = np.concatenate([near, _random_boxes(wrong, rng)])
    guesses = np.concatenate([labels[found], rng.choice(classes, wrong)])
    scores = np.concatenate([rng.beta(4, 2, len(found)), 0.05 + 0.6 * rng.beta(1, 6, wrong)])
    truth = AnnotationSet(
        tuple(Category(label + 1, f"class {label}") for label in range(classes)),
        tuple(Image(number, f"{number}.jpg", 640, 480) for number in range(images)),
        tuple(
            Annotation(number + 1, int(where[number]), int(labels[number]) + 1, tuple(box), box[2] * box[3])
            for number, box in enumerate(boxes.tolist())
        ),
    )
    records = zip(images_of.tolist(), guesses.tolist(), detected.clip(0.5).tolist(), scores.tolist(), strict=True)
    return truth, tuple(Detection(image, label + 1, tuple(box), score) for image, label, box, score in records)


def _random_boxes(count: int, rng: np.random.Generator) -> Any:
    sides = np.exp(rng.normal(4, 0.9, (count, 2))).clip(4, 400)
    return np.concatenate([rng.random((count, 2)) * ((640, 480) - sides).clip(1), sides], axis=1)


def timed(name: str, function: Callable[..., _Value], *arguments: Any) -> _Value:
    start, cpu = time.perf_counter(), time.process_time()
    value = function(*arguments)
    print(f"| {name} | {time.process_time() - cpu:.2f} | {time.perf_counter() - start:.2f} |", flush=True)
    return value


@report.paused_garbage_collection()
def main() -> None:
    """Prints the tables of the card."""
    truth, detections = scenes(*map(int, sys.argv[1:]))
    print(
        f"{len(truth.images)} images, {len(truth.annotations)} objects, {len(detections)} detections, {CLASSES} classes"
    )
    print("\n| part | CPU seconds | seconds |\n|---|---|---|")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "detections.json"
        timed("write detections", results.write, detections, path)
        detections = timed("read detections (`fcos evaluate` alone)", results.read, path, truth)
    slow = timed("pycocotools", coco.evaluate, truth, detections)
    fast = timed("hotcoco, the same twelve metrics", coco.fast_ap, truth, detections)
    matches = timed("matches of pycocotools as arrays", Matches.of, slow.evaluation)
    timed("intervals", resampling.resample, matches)
    timed("operating point", operating_point.choose, matches, truth)
    timed("VOC", voc.evaluate, truth, detections)
    sized = timed("hotcoco's matches of all sizes", object_sizes.evaluate, truth, detections)
    timed("AP by size", sized.summarize)
    timed("TIDE and calibration", diagnose, truth, detections, sized.evaluation)
    with patch.object(coco, "evaluate", lambda *_: slow):
        found = timed("the report without pycocotools' own time", report.evaluate, truth, detections)
    tables = timed("tables of the plots", plot_tables, truth, detections, found)
    with TemporaryDirectory() as folder:
        timed("CSV and PNG files of the plots", write_plots, tables, Path(folder))
    print("largest difference between the engines:", max(abs(fast[name] - slow.values[name]) for name in fast))  # type: ignore[operator]


if __name__ == "__main__":
    main()
