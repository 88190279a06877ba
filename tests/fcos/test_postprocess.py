import math

import pytest
import torch
from torch import Tensor

from fcos.detector import Outputs
from fcos.points import points
from fcos.postprocess import Postprocess

PYRAMID = points([(4, 4), (2, 2)], [8, 16])  # of an image of 32×32; 20 locations


def outputs(entries: dict[tuple[int, int], tuple[float, float, list[float]]], classes: int = 2) -> Outputs:
    """Nothing but the entries: (location, class) → class probability, centerness, ltrb."""
    logits = torch.full((1, 20, classes), -20.0)
    centerness, ltrb = torch.zeros(1, 20), torch.ones(1, 20, 4)
    for (location, label), (probability, centre, distances) in entries.items():
        logits[0, location, label] = math.log(probability / (1 - probability))
        centerness[0, location] = math.log(centre / (1 - centre))
        ltrb[0, location] = torch.tensor(distances)
    return Outputs(logits, ltrb, centerness, PYRAMID)


def detect(given: Outputs, **options: float) -> list[tuple[list[float], float, int]]:
    (found,) = Postprocess(**options)(given, [(32, 32)])  # type: ignore[arg-type]
    return list(zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True))


def test_score_and_box_by_hand() -> None:
    """Location 5 is at (12, 12); its score is the geometric mean of 0.64 and 0.36."""
    ((box, score, label),) = detect(outputs({(5, 1): (0.64, 0.36, [4, 5, 6, 7])}))
    assert box == [8, 7, 18, 19]
    assert score == pytest.approx(0.48, abs=1e-4)
    assert label == 1


def test_the_threshold_is_on_the_class_probability() -> None:
    """0.1 · 0.04 has a root of 0.063, but 0.049 is below the threshold whatever its centerness."""
    found = detect(outputs({(5, 0): (0.1, 0.04, [4] * 4), (10, 0): (0.049, 0.99, [4] * 4)}))
    assert [score for _, score, _ in found] == pytest.approx([math.sqrt(0.1 * 0.04)], abs=1e-4)


def test_nms_is_class_by_class() -> None:
    same = [4.0, 4.0, 4.0, 4.0]
    given = outputs({(5, 0): (0.9, 0.9, same), (6, 1): (0.8, 0.9, [12, 4, -4, 4])})
    assert len(detect(given)) == 2
    given = outputs({(5, 0): (0.9, 0.9, same), (6, 0): (0.8, 0.9, [12, 4, -4, 4])})
    assert len(detect(given)) == 1


def test_one_location_may_be_two_classes() -> None:
    given = outputs({(5, 0): (0.9, 0.5, [4] * 4), (5, 1): (0.8, 0.5, [4] * 4)})
    assert [label for _, _, label in detect(given)] == [0, 1]


def test_best_first_and_no_more_than_asked() -> None:
    given = outputs({(i, 0): (0.1 + 0.05 * i, 0.5, [2] * 4) for i in range(16)})
    found = [score for _, score, _ in detect(given, max_detections=5)]
    assert found == sorted(found, reverse=True)
    assert len(found) == 5
    assert found[0] == pytest.approx(math.sqrt(0.85 * 0.5), abs=1e-4)


def test_candidates_are_counted_level_by_level() -> None:
    entries = {(i, 0): (0.5 + 0.02 * i, 0.5, [2.0] * 4) for i in range(4)}
    entries |= {(i, 0): (0.2, 0.5, [3.0] * 4) for i in (16, 19)}
    assert len(detect(outputs(entries), candidates=1)) == 2


def test_boxes_end_at_the_image_and_empty_ones_go() -> None:
    found = detect(outputs({(0, 0): (0.9, 0.9, [9, 9, 3, 3]), (15, 0): (0.9, 0.9, [0, 0, 0, 5])}))
    assert [box for box, _, _ in found] == [[0, 0, 7, 7]]


def test_nothing_found() -> None:
    (found,) = Postprocess()(outputs({}), [(32, 32)])
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)
    assert found.labels.dtype == torch.int64


def test_the_truth_comes_back_as_detections() -> None:
    """A network that says what assignment wants to hear detects the very objects."""
    from fcos.assign import assign_fcos, targets
    from fcos.losses import centerness

    boxes: Tensor = torch.tensor([[2.0, 3.0, 14.0, 12.0], [10.0, 14.0, 31.0, 30.0]])
    truth = assign_fcos(PYRAMID, targets([boxes], [torch.tensor([0, 1])]), radius=1.5)
    hot = (truth.labels[..., None] == torch.arange(2)) & truth.positive[..., None]
    given = Outputs(torch.where(hot, 8.0, -8.0), truth.ltrb, torch.logit(centerness(truth.ltrb), eps=1e-4), PYRAMID)
    (found,) = Postprocess()(given, [(32, 32)])
    assert found.labels.sort().values.tolist() == [0, 1]
    torch.testing.assert_close(found.boxes[found.labels.argsort()], boxes)
