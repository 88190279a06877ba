"""Objects keep their numbers: IDF1 by its definition, on objects with known paths."""

import sys
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from fcos.postprocess import Detections
from pipeline.errors import PipelineError
from pipeline.prediction import tracking
from pipeline.prediction.tracking import Tracker, lower_thresholds
from tests.support.paths import PROJECT
from tests.support.tracking_scores import Objects, idf1

RATE = 30.0


def paths(index: float) -> Objects:
    """Two objects that cross in opposite directions, one that crosses both, and one that circles."""
    circle = 130 + 40 * np.sin(index / 15), 140 + 20 * np.cos(index / 10)
    return {
        0: (10 + 2 * index, 40, 34 + 2 * index, 70),
        1: (210 - 2 * index, 45, 236 - 2 * index, 77),
        2: (100, 5 + 1.5 * index, 120, 33 + 1.5 * index),
        3: (*circle, circle[0] + 25, circle[1] + 30),
    }


def detected(objects: Objects, scores: Sequence[float], rng: np.random.Generator) -> Detections:
    boxes = torch.tensor(np.array(list(objects.values())) + rng.normal(0, 1, (len(objects), 4)), dtype=torch.float32)
    return Detections(boxes, torch.tensor(scores), torch.tensor([0, 1, 0, 1]))


def track(every: int, frames: int = 100) -> tuple[list[Objects], list[Objects]]:
    """True and found objects. A tenth of the scores are low, and those of one object are for a while."""
    rng = np.random.default_rng(0)
    tracker = Tracker(RATE, every, [0.4, 0.3])
    truth, found = [], []
    for index in range(0, frames, every):
        scores = [0.15 if rng.random() < 0.1 or (number == 3 and 40 <= index < 48) else 0.6 for number in range(4)]
        detections = detected(paths(index), scores, rng)
        numbers = tracker.update(detections, index / RATE)
        truth.append(paths(index))
        found.append({n: box for n, box in zip(numbers, detections.boxes.tolist(), strict=True) if n is not None})
    return truth, found


@pytest.mark.parametrize("every", [1, 3])
def test_crossing_objects_keep_their_numbers(every: int) -> None:
    truth, found = track(every)
    assert idf1(truth, found) >= 0.95
    assert {number for frame in found for number in frame} == {1, 2, 3, 4}


def test_the_measure_itself() -> None:
    a, b = (0.0, 0.0, 10.0, 10.0), (50.0, 0.0, 60.0, 10.0)
    truth = [{0: a, 1: b}] * 4
    assert idf1(truth, [{7: a, 9: b}] * 4) == 1
    assert idf1(truth, [{7: a, 9: b}] * 2 + [{9: a, 7: b}] * 2) == 0.5
    assert idf1(truth, [{7: a}] * 4) == pytest.approx(2 * 4 / (8 + 4))


def still(score: float, label: int = 0) -> Detections:
    return Detections(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([score]), torch.tensor([label]))


def test_a_track_begins_at_its_class_threshold_with_the_second_detection() -> None:
    tracker = Tracker(RATE, 1, [0.7, 0.3])
    for index, (detections, expected) in enumerate(
        [
            (still(0.69), None),
            (still(0.69), None),
            (still(0.3, label=1), None),  # the first at the threshold of its class
            (still(0.1), 1),  # a low score continues a track, and so does another class
            (still(0.7), 1),
        ]
    ):
        assert tracker.update(detections, index / RATE) == [expected]


def test_numbers_follow_the_order_of_the_detections() -> None:
    tracker = Tracker(RATE, 1, [0.5])
    boxes = torch.tensor([[0.0, 0, 9, 9], [50, 0, 59, 9], [90, 0, 99, 9]])
    for index, order in enumerate(([0, 1, 2], [0, 1, 2], [2, 0, 1])):
        scores = torch.tensor([0.9, 0.8, 0.7])[order]
        numbers = tracker.update(Detections(boxes[order], scores, torch.zeros(3, dtype=torch.int64)), index / RATE)
    assert numbers == [3, 1, 2]
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert tracker.update(nothing, 4 / RATE) == []


@pytest.mark.parametrize(("every", "missed"), [(1, 29), (60, 2)])
def test_an_object_is_recognized_after_a_second_or_a_few_detected_frames(every: int, missed: int) -> None:
    tracker = Tracker(RATE, every, [0.5])
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    sequence = [still(0.9)] * 3 + [nothing] * missed + [still(0.9)]
    numbers = [tracker.update(found, index * every / RATE) for index, found in enumerate(sequence)]
    assert numbers[2] == numbers[-1] == [1]


def test_lower_thresholds_let_low_scores_pass_except_those_of_classes_that_are_left_out() -> None:
    assert lower_thresholds([0.4, 0.05, 2.0]) == [0.1, 0.05, 2.0]


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackers", None)
    with pytest.raises(PipelineError, match=r"^--track needs a package: pip install 'trackers>=2\.6,<3'$"):
        Tracker(RATE, 1, [0.5])
    wanted = next(line for line in (PROJECT / "pyproject.toml").read_text().splitlines() if '"trackers' in line)
    assert wanted.strip(' ",') in tracking.INSTALL
