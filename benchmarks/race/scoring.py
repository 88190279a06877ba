"""The data of a race, the time that a training takes, and what its detections score."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from fcos.postprocess import Detections
from fcos.training.history import Row
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco
from pipeline.evaluation.matches import Matches
from pipeline.evaluation.resampling import intervals_of_means, resample
from pipeline.inference.detect import detect_split

BATCH = 8  # images that are detected at a time
TIMED_STEPS = 8  # of a training that only measures the time of a step
_Value = TypeVar("_Value")
Detect = Callable[[Sequence[Tensor]], list[Detections]]


@dataclass(frozen=True)
class Race:
    """The data of a race, and the time that each side has."""

    name: str
    raw: Path  # folder that the images' file names are relative to
    train: AnnotationSet
    val: AnnotationSet
    seconds: float
    validations: int = 8  # of a training, about

    @property
    def classes(self) -> list[str]:
        return [category.name for category in self.train.categories]

    def epochs(self, step: float, steps: int) -> int:
        """The number of whole epochs of so many steps that fit into the time, at least one.

        Args:
            step: CPU seconds of a step.
        """
        return max(1, int(self.seconds / (step * steps)))

    def validate_every(self, epochs: int) -> int:
        """Epochs between two validations."""
        return max(1, epochs // max(1, self.validations))


@dataclass(frozen=True)
class Result:
    """A training of one side."""

    data: str
    side: str
    seed: int
    settings: str  # of our side the changed parameters, of the other one learning rate and precision
    epochs: int
    seconds: float  # CPU time of the training
    metrics: Mapping[str, float | None]  # COCO's, by pycocotools
    intervals: Mapping[str, Sequence[float | None]]  # 95 %, over images
    curve: Sequence[tuple[float, float, float]]  # CPU seconds, AP and AP50 of each validation


class Clock:
    """CPU time of this process, without the time that `pause` calls take."""

    def __init__(self) -> None:
        self._start, self._paused = time.process_time(), 0.0

    def seconds(self) -> float:
        return time.process_time() - self._start - self._paused

    def pause(self, call: Callable[[], _Value]) -> _Value:
        before = time.process_time()
        result = call()
        self._paused += time.process_time() - before
        return result


class Scores:
    """Validations of a training that begins now, and the detections of the last one."""

    def __init__(self, race: Race) -> None:
        self.race, self.clock = race, Clock()
        self.curve: list[tuple[float, float, float]] = []
        self.detections: list[Detection] = []

    def validate(self, detect: Detect) -> Row:
        return self.clock.pause(lambda: self._validate(detect))

    def _validate(self, detect: Detect) -> Row:
        seconds = self.clock.seconds()
        self.detections = list(detect_split(detect, self.race.val, self.race.raw, batch_size=BATCH))
        metrics = coco.fast_ap(self.race.val, self.detections)
        row = {name: metrics[name] or 0.0 for name in ("AP", "AP50")}
        self.curve.append((round(seconds, 1), row["AP"], row["AP50"]))
        print(f"{seconds:.0f} s: AP {row['AP']:.3f}, AP50 {row['AP50']:.3f}", file=sys.stderr, flush=True)
        return row

    def result(self, side: str, seed: int, settings: str, epochs: int) -> Result:
        seconds = self.clock.seconds()
        metrics = coco.evaluate(self.race.val, self.detections)
        matches = Matches.of(metrics.evaluation)
        found = intervals_of_means(matches, resample(matches))
        intervals = {name: (interval.low, interval.high) for name, interval in found.items()}
        return Result(self.race.name, side, seed, settings, epochs, seconds, metrics.values, intervals, self.curve)
