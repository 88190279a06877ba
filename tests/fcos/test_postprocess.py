"""Postprocessing: worked out by hand, and compared with a slow implementation."""

import math
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcos.assigners import assign_fcos
from fcos.config import PAPER
from fcos.locations import make_locations
from fcos.losses import centerness
from fcos.postprocess import SUPPRESSIONS, Postprocess
from fcos.structures import Outputs, make_targets

PYRAMID = make_locations([(4, 4), (2, 2)], [8, 16])  # of an image of 32×32; 20 locations


def outputs(entries: dict[tuple[int, int], tuple[float, float, list[float]]], classes: int = 2) -> Outputs:
    """Background except for the entries: (location, class) → class probability, centerness, ltrb."""
    logits = torch.full((1, 20, classes), -20.0)
    centerness, ltrb = torch.zeros(1, 20), torch.ones(1, 20, 4)
    for (location, label), (probability, center, distances) in entries.items():
        logits[0, location, label] = math.log(probability / (1 - probability))
        centerness[0, location] = math.log(center / (1 - center))
        ltrb[0, location] = torch.tensor(distances)
    return Outputs(logits, ltrb, centerness, PYRAMID)


def detect(given: Outputs, **options: Any) -> list[tuple[list[float], float, int]]:
    (detections,) = Postprocess(**options)(given, [(32, 32)])
    boxes, scores, labels = (tensor.tolist() for tensor in (detections.boxes, detections.scores, detections.labels))
    return list(zip(boxes, scores, labels, strict=True))


def test_score_and_box_by_hand() -> None:
    """Location 5 is at (12, 12); its score is the geometric mean of 0.64 and 0.36."""
    ((box, score, label),) = detect(outputs({(5, 1): (0.64, 0.36, [4, 5, 6, 7])}))
    assert box == [8, 7, 18, 19]
    assert score == pytest.approx(0.48, abs=1e-4)
    assert label == 1


def test_the_default_threshold_is_on_the_class_probability() -> None:
    """√(0.1 · 0.04) = 0.063 passes, but 0.049 is below the threshold of 0.05 for any centerness."""
    detections = detect(outputs({(5, 0): (0.1, 0.04, [4] * 4), (10, 0): (0.049, 0.99, [4] * 4)}))
    assert [score for _, score, _ in detections] == pytest.approx([math.sqrt(0.1 * 0.04)], abs=1e-4)


def test_nms_is_class_by_class() -> None:
    same = [4.0, 4.0, 4.0, 4.0]
    given = outputs({(5, 0): (0.9, 0.9, same), (6, 1): (0.8, 0.9, [12, 4, -4, 4])})
    assert len(detect(given)) == 2
    given = outputs({(5, 0): (0.9, 0.9, same), (6, 0): (0.8, 0.9, [12, 4, -4, 4])})
    assert len(detect(given)) == 1


def test_a_location_may_detect_two_classes() -> None:
    given = outputs({(5, 0): (0.9, 0.5, [4] * 4), (5, 1): (0.8, 0.5, [4] * 4)})
    assert [label for _, _, label in detect(given)] == [0, 1]


def test_detections_are_sorted_and_limited_in_number() -> None:
    given = outputs({(i, 0): (0.1 + 0.05 * i, 0.5, [2] * 4) for i in range(16)})
    detections = [score for _, score, _ in detect(given, max_detections=5)]
    assert detections == sorted(detections, reverse=True)
    assert len(detections) == 5
    assert detections[0] == pytest.approx(math.sqrt(0.85 * 0.5), abs=1e-4)


def test_candidates_are_limited_on_each_level() -> None:
    entries = {(i, 0): (0.5 + 0.02 * i, 0.5, [2.0] * 4) for i in range(4)}
    entries |= {(i, 0): (0.2, 0.5, [3.0] * 4) for i in (16, 19)}
    assert len(detect(outputs(entries), pre_nms_topk=1)) == 2


def test_boxes_are_clipped_and_empty_boxes_removed() -> None:
    detections = detect(outputs({(0, 0): (0.9, 0.9, [9, 9, 3, 3]), (15, 0): (0.9, 0.9, [0, 0, 0, 5])}))
    assert [box for box, _, _ in detections] == [[0, 0, 7, 7]]


def test_no_detections() -> None:
    (detections,) = Postprocess()(outputs({}), [(32, 32)])
    assert detections.boxes.shape == (0, 4)
    assert detections.scores.shape == (0,)
    assert detections.labels.dtype == torch.int64


def test_perfect_outputs_give_the_ground_truth() -> None:
    boxes = torch.tensor([[2.0, 3.0, 14.0, 12.0], [10.0, 14.0, 31.0, 30.0]])
    assignment = assign_fcos(outputs({}), make_targets([boxes], [torch.tensor([0, 1])]), PAPER)
    ltrb, positive = assignment.ltrb, assignment.positive
    is_class = (assignment.labels[..., None] == torch.arange(2)) & positive[..., None]
    given = Outputs(torch.where(is_class, 8.0, -8.0), ltrb, torch.logit(centerness(ltrb), eps=1e-4), PYRAMID)
    (detections,) = Postprocess()(given, [(32, 32)])
    assert detections.labels.sort().values.tolist() == [0, 1]
    torch.testing.assert_close(detections.boxes[detections.labels.argsort()], boxes)


def test_the_threshold_on_the_combined_score() -> None:
    """√(0.5 · 0.18) = 0.3: the class probability of 0.5 is above 0.4, the combined score is not."""
    given = outputs({(5, 0): (0.5, 0.18, [4] * 4), (10, 0): (0.5, 0.5, [4] * 4)})
    assert len(detect(given, score_threshold=0.4, score_mode="class")) == 2
    assert len(detect(given, score_threshold=0.4, score_mode="combined")) == 1
    assert len(detect(given, score_threshold=0.29, score_mode="combined")) == 2


def test_without_quality_the_score_is_the_class_probability() -> None:
    given = replace(outputs({(5, 1): (0.64, 0.36, [4, 5, 6, 7])}), quality=None)
    assert [score for _, score, _ in detect(given, score_mode="combined")] == pytest.approx([0.64], abs=1e-4)


# Two boxes of one class; the second, 8×8, is inside the first, 16×8, both at y 8 to 16: IoU ½.
OVERLAPPING: dict[tuple[int, int], tuple[float, float, list[float]]] = {
    (5, 0): (0.81, 0.999999, [8, 4, 8, 4]),
    (6, 0): (0.64, 0.999999, [8, 4, 0, 4]),
}


@pytest.mark.parametrize(
    ("options", "second"),
    [
        ({"nms": "hard", "nms_iou_threshold": 0.49}, []),
        ({"nms": "hard", "nms_iou_threshold": 0.5}, [0.8]),
        ({"nms": "soft_linear", "nms_iou_threshold": 0.49}, [0.8 * 0.5]),
        ({"nms": "soft_linear", "nms_iou_threshold": 0.5}, [0.8]),
        ({"nms": "soft_gaussian", "soft_nms_sigma": 0.5}, [0.8 * math.exp(-0.25 / 0.5)]),
    ],
)
def test_suppressions_by_hand(options: dict[str, Any], second: list[float]) -> None:
    detections = detect(outputs(OVERLAPPING), **options)
    assert [score for _, score, _ in detections] == pytest.approx([0.9, *second], abs=1e-4)


def test_all_suppressions_can_be_selected() -> None:
    assert tuple(SUPPRESSIONS) == get_args(get_type_hints(Postprocess)["nms"])


def test_nms_is_exact_for_many_classes() -> None:
    """Adding an offset for class 9999 to the boxes, as some implementations do, would round them to whole pixels."""
    logits = torch.full((1, 20, 10000), -20.0)
    logits[0, 5, -1], logits[0, 6, -1], logits[0, 0, 3] = 2.0, 1.0, 0.0
    ltrb = torch.tensor([4.0, 4.0, 4.0, 4.0]).repeat(1, 20, 1)
    ltrb[0, 6] = torch.tensor([12.0, 4.0, -4.01, 4.0])  # 7.99 of 8 wide: IoU 0.99875
    given = Outputs(logits, ltrb, None, PYRAMID)
    assert len(detect(given, nms_iou_threshold=0.998)) == 2
    assert len(detect(given, nms_iou_threshold=0.999)) == 3


DetectionList = list[tuple[list[float], float, int]]  # boxes, scores, labels


def iou_of(a: list[float], b: list[float]) -> float:
    shared = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def to_float32(x: float) -> float:
    return float(torch.tensor(x))


def score_of(detection: tuple[list[float], float, int]) -> float:
    return detection[1]


def oracle(given: Outputs, image: int, size: tuple[int, int], options: Postprocess) -> DetectionList:
    """Loops over levels, locations and classes."""
    candidates: DetectionList = []
    first = 0
    for count in given.locations.counts:
        level: DetectionList = []
        for p in range(first, first + count):
            x, y = given.locations.xy[p].tolist()
            left, top, right, bottom = given.ltrb[image, p].tolist()
            box = [x - left, y - top, x + right, y + bottom]
            box = [to_float32(min(max(side, 0), end)) for side, end in zip(box, (size[1], size[0]) * 2, strict=True)]
            for label, logit in enumerate(given.logits[image, p].tolist()):
                probability = sigmoid(logit)
                score = probability
                if given.quality is not None:
                    score = math.sqrt(probability * sigmoid(given.quality[image, p].item()))
                if (probability if options.score_mode == "class" else score) > options.score_threshold:
                    level.append((box, to_float32(score), label))
        candidates += sorted(level, key=score_of, reverse=True)[: options.pre_nms_topk]
        first += count
    nonempty = [(box, score, label) for box, score, label in candidates if box[0] < box[2] and box[1] < box[3]]
    return suppress(nonempty, options)[: options.max_detections]


def suppress(candidates: DetectionList, options: Postprocess) -> DetectionList:
    """Moves the best candidate to the result and decays the scores of its class, until no candidate is left."""
    result: DetectionList = []
    candidates = sorted(candidates, key=score_of, reverse=True)
    while candidates:
        best_box, best_score, best_label = max(candidates, key=score_of)  # the first of equal scores
        candidates.remove((best_box, best_score, best_label))
        result.append((best_box, best_score, best_label))
        decayed = [
            (box, score * decay(iou_of(best_box, box), options) if label == best_label else score, label)
            for box, score, label in candidates
        ]
        candidates = [candidate for candidate in decayed if score_of(candidate) > 0]
    return result


def decay(iou: float, options: Postprocess) -> float:
    if options.nms == "soft_gaussian":
        return math.exp(-(iou**2) / options.soft_nms_sigma)
    if iou <= options.nms_iou_threshold:
        return 1
    return 0 if options.nms == "hard" else 1 - iou


def random_outputs(seed: int, *, whole_numbers: bool, quality: bool) -> Outputs:
    """Random outputs of three images, the second without detections; whole numbers give equal scores and IoUs."""
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 20, 3, generator=random) * 2
    ltrb, center = torch.rand(3, 20, 4, generator=random) * 16, torch.randn(3, 20, generator=random)
    if whole_numbers:
        logits, ltrb, center = logits.round(), ltrb.round(), center.round()
    logits[1] = -20
    return Outputs(logits, ltrb, center if quality else None, PYRAMID)


@given(
    seed=st.integers(0, 10**6),
    whole_numbers=st.booleans(),
    quality=st.booleans(),
    options=st.builds(
        Postprocess,
        score_threshold=st.sampled_from([0.0, 0.05, 0.2, 0.5, 0.9, 1.0]),
        score_mode=st.sampled_from(["class", "combined"]),
        pre_nms_topk=st.sampled_from([1, 3, 10, 1000]),
        nms=st.sampled_from(list(SUPPRESSIONS)),
        nms_iou_threshold=st.sampled_from([0.0, 0.25, 0.5, 0.6, 1.0]),
        soft_nms_sigma=st.sampled_from([0.1, 0.5]),
        max_detections=st.sampled_from([1, 2, 5, 100]),
    ),
)
@settings(deadline=None, max_examples=200, derandomize=True)
def test_detections_equal_the_oracles(seed: int, whole_numbers: bool, quality: bool, options: Postprocess) -> None:
    sizes = [(32, 32), (32, 30), (17, 29)]
    random = random_outputs(seed, whole_numbers=whole_numbers, quality=quality)
    for image, detections in enumerate(options(random, sizes)):
        expected = oracle(random, image, sizes[image], options)
        assert detections.labels.tolist() == [label for _, _, label in expected]
        assert detections.boxes.tolist() == [box for box, _, _ in expected]
        assert detections.scores.tolist() == pytest.approx([score for _, score, _ in expected], rel=1e-6)


@pytest.mark.parametrize("nms", list(SUPPRESSIONS))
def test_many_suppressed_boxes_do_not_hide_a_weaker_one(nms: str) -> None:
    """Fifteen equal boxes with high scores, more than the first round of suppression examines, and a different box."""
    entries = {}
    for p in range(15):
        x, y = PYRAMID.xy[p].tolist()
        entries[p, 0] = (0.9 - 0.01 * p, 0.9, [x, y, 20 - x, 20 - y])
    entries[15, 0] = (0.3, 0.9, [2.0, 2.0, 2.0, 2.0])
    detections = detect(outputs(entries), nms=nms, max_detections=2, soft_nms_sigma=0.1)
    assert [box for box, _, _ in detections] == [[0, 0, 20, 20], [26, 26, 30, 30]]
    assert [score for _, score, _ in detections] == pytest.approx([0.9, math.sqrt(0.27)], abs=1e-4)


def test_the_threshold_is_exact() -> None:
    """The float32 neighbors of logit(0.3): one passes and one doesn't, in both modes."""
    nearest = torch.logit(torch.tensor(0.3, dtype=torch.float64)).float()
    for logit in (nearest, nearest.nextafter(torch.tensor(0.0)), nearest.nextafter(torch.tensor(-9.0))):
        given = Outputs(logit.expand(1, 20, 2), torch.ones(1, 20, 4), torch.full((1, 20), 40.0), PYRAMID)
        assert len(detect(given, score_threshold=0.3)) == 40 * (sigmoid(logit.item()) > 0.3)
        root = math.sqrt(0.3)
        passes = math.sqrt(sigmoid(logit.item())) > root
        assert len(detect(given, score_threshold=root, score_mode="combined")) == 40 * passes
