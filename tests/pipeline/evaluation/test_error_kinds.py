"""Each kind of error by hand, and random scenes against a slow implementation of the rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation.error_kinds import KINDS, ImageErrors, analyze

CAT, DOG = 3, 7
Box = tuple[float, float, float, float]


def scene(*objects: Annotation) -> AnnotationSet:
    return AnnotationSet((Category(CAT, "cat"), Category(DOG, "dog")), (Image(1, "a.png", 100, 100),), objects)


def cat(number: int, box: Box, *, crowd: int = 0, difficult: int = 0) -> Annotation:
    return Annotation(number, 1, CAT, box, box[2] * box[3], crowd, difficult)


def judge(truth: AnnotationSet, *found: tuple[int, Box, float]) -> ImageErrors:
    detections = [Detection(1, category, box, score) for category, box, score in found]
    return analyze(truth, detections, score_threshold=0.3, iou_threshold=0.5)[1]


def kinds(errors: ImageErrors) -> list[str]:
    return [verdict.kind for verdict in errors.verdicts]


@pytest.mark.parametrize(
    ("category", "box", "kind", "iou", "missed"),
    [
        (CAT, (0, 0, 10, 10), "correct", 1.0, 0),
        (CAT, (0, 0, 10, 5), "correct", 0.5, 0),  # 50 / 100: at the threshold
        (CAT, (0, 0, 10, 4.9), "poor_box", 0.49, 1),
        (CAT, (0, 0, 10, 1), "poor_box", 0.1, 1),  # at the lower limit
        (CAT, (0, 0, 10, 0.9), "background", 0.0, 1),
        (CAT, (50, 50, 10, 10), "background", 0.0, 1),
        (DOG, (0, 0, 10, 10), "wrong_class", 1.0, 1),
        (DOG, (0, 0, 10, 4), "background", 0.0, 1),  # low IoU with an object of another class
    ],
)
def test_one_detection_of_one_object(category: int, box: Box, kind: str, iou: float, missed: int) -> None:
    errors = judge(scene(cat(1, (0, 0, 10, 10))), (category, box, 0.9))
    assert kinds(errors) == [kind]
    assert errors.verdicts[0].iou == pytest.approx(iou)
    assert len(errors.missed) == missed
    assert errors.count == missed + (kind != "correct")


def test_the_lower_score_is_the_duplicate() -> None:
    errors = judge(scene(cat(1, (0, 0, 10, 10))), (CAT, (0, 0, 10, 10), 0.5), (CAT, (0, 0, 10, 8), 0.9))
    assert [(verdict.detection.score, verdict.kind) for verdict in errors.verdicts] == [
        (0.9, "correct"),
        (0.5, "duplicate"),
    ]


def test_a_second_detection_matches_the_free_object_although_its_iou_is_lower() -> None:
    truth = scene(cat(1, (0, 0, 10, 10)), cat(2, (2, 0, 10, 10)))
    errors = judge(truth, (CAT, (0, 0, 10, 10), 0.9), (CAT, (0, 0, 10, 10), 0.8))
    assert kinds(errors) == ["correct", "correct"]
    assert [verdict.annotation.id for verdict in errors.verdicts if verdict.annotation] == [1, 2]
    assert errors.missed == ()


def test_detections_below_the_score_threshold_are_ignored() -> None:
    errors = judge(scene(cat(1, (0, 0, 10, 10))), (CAT, (0, 0, 10, 10), 0.29))
    assert errors.verdicts == ()
    assert [item.id for item in errors.missed] == [1]


@pytest.mark.parametrize("flag", ["crowd", "difficult"])
def test_crowds_and_difficult_objects_are_ignored(flag: str) -> None:
    truth = scene(cat(1, (0, 0, 40, 40), **{flag: 1}))
    assert judge(truth).count == 0
    twice = judge(truth, (CAT, (0, 0, 40, 40), 0.9), (CAT, (0, 0, 40, 30), 0.8))
    assert kinds(twice) == ["correct", "correct"]
    assert kinds(judge(truth, (DOG, (0, 0, 40, 40), 0.9))) == ["background"]


def test_a_part_of_a_crowd_is_correct_but_a_part_of_a_difficult_object_is_not() -> None:
    part: tuple[int, Box, float] = (CAT, (0, 0, 10, 10), 0.9)  # IoU 1/16, completely inside
    assert kinds(judge(scene(cat(1, (0, 0, 40, 40), crowd=1)), part)) == ["correct"]
    assert kinds(judge(scene(cat(1, (0, 0, 40, 40), difficult=1)), part)) == ["background"]


def test_counted_objects_precede_ignored_ones() -> None:
    truth = scene(cat(1, (0, 0, 10, 10), difficult=1), cat(2, (0, 0, 10, 8)))
    errors = judge(truth, (CAT, (0, 0, 10, 10), 0.9))
    assert errors.verdicts[0].annotation == truth.annotations[1]
    assert errors.missed == ()


def slow_iou(a: Box, b: Box) -> float:
    width = max(0, min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0]))
    height = max(0, min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1]))
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def slow(truth: AnnotationSet, detections: list[Detection]) -> list[str]:
    """The rules in their order, without crowds and difficult objects."""
    taken, answers = set(), []
    for found in sorted((d for d in detections if d.score >= 0.3), key=lambda d: -d.score):
        pairs = [(slow_iou(found.bbox, item.bbox), item) for item in truth.annotations]
        same = [(iou, item) for iou, item in pairs if item.category_id == found.category_id]
        free = [(iou, item) for iou, item in same if iou >= 0.5 and item.id not in taken]
        if free:
            taken.add(max(free, key=lambda pair: pair[0])[1].id)
            answers.append("correct")
        elif any(iou >= 0.5 for iou, _ in same):
            answers.append("duplicate")
        elif any(iou >= 0.5 for iou, _ in pairs):
            answers.append("wrong_class")
        else:
            answers.append("poor_box" if any(iou >= 0.1 for iou, _ in same) else "background")
    return answers


box = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2)
category = st.sampled_from([CAT, DOG])
objects = st.lists(st.tuples(category, box, st.integers(0, 3)), max_size=6)
found = st.lists(st.tuples(category, box, st.integers(0, 10)), max_size=8)


@given(objects, found)
def test_every_detection_has_one_verdict_and_every_object_is_matched_or_missed(
    drawn: list[tuple[int, Box, int]], found: list[tuple[int, Box, int]]
) -> None:
    items = [
        Annotation(number, 1, kind, box, 1, int(flag == 1), int(flag == 2))
        for number, (kind, box, flag) in enumerate(drawn)
    ]
    detections = [Detection(1, kind, box, score / 10) for kind, box, score in found]
    errors = analyze(scene(*items), detections, score_threshold=0.3, iou_threshold=0.5)[1]
    assert sorted(verdict.detection.score for verdict in errors.verdicts) == sorted(
        detection.score for detection in detections if detection.score >= 0.3
    )
    assert set(kinds(errors)) <= set(KINDS)
    counted = {item.id for item in items if not (item.iscrowd or item.difficult)}
    hits = [verdict.annotation.id for verdict in errors.of("correct") if verdict.annotation]
    matched = [number for number in hits if number in counted]
    assert len(matched) == len(set(matched))
    assert {item.id for item in errors.missed} == counted - set(matched)
    if len(counted) == len(items):
        assert kinds(errors) == slow(scene(*items), detections)
