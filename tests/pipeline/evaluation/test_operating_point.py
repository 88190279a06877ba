"""The thresholds with the best F1, against all thresholds tried one by one."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, operating_point
from pipeline.evaluation.matches import Matches
from pipeline.evaluation.operating_point import OperatingPoints
from tests.support.random_scenes import scenes


def choose(objects: AnnotationSet, detections: tuple[Detection, ...]) -> OperatingPoints:
    return operating_point.choose(Matches.of(coco.evaluate(objects, detections).evaluation), objects)


def f1_at(objects: AnnotationSet, detections: tuple[Detection, ...], score: float) -> float:
    """F1 of the detections with at least this score, matched by themselves."""
    matches = Matches.of(coco.evaluate(objects, tuple(item for item in detections if item.score >= score)).evaluation)
    correct, counted = int(matches.correct[0].sum()), int((~matches.ignored[0]).sum())
    return 2 * correct / (counted + matches.objects.sum())


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_no_other_threshold_has_a_better_f1(scene: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    objects, detections = scene
    point = choose(objects, detections).all
    scores = sorted({item.score for item in detections})
    if point is None:
        assert all(f1_at(objects, detections, score) == 0 for score in scores if scores) or not objects.annotations
        return
    best = max(f1_at(objects, detections, score) for score in scores)
    assert point.f1 == pytest.approx(best)
    assert f1_at(objects, detections, point.score) == pytest.approx(best)


def row(images: int) -> tuple[AnnotationSet, tuple[Detection, ...]]:
    """An image has an object of class a, detected with 0.9, and a wrong detection with 0.3; class b has no object."""
    box = (0.0, 0.0, 10.0, 10.0)
    pictures = tuple(Image(number, f"{number}.jpg", 50, 50) for number in range(1, images + 1))
    objects = tuple(Annotation(image.id, image.id, 1, box, 100.0) for image in pictures)
    wrong = (30.0, 30.0, 10.0, 10.0)
    found = [Detection(image.id, 1, place, score) for image in pictures for place, score in ((box, 0.9), (wrong, 0.3))]
    return AnnotationSet((Category(1, "a"), Category(2, "b")), pictures, objects), tuple(found)


def test_each_class_has_its_own_threshold() -> None:
    points = choose(*row(4))
    assert points.to_json() == {
        "confirmed": False,
        "all": {"score": 0.9, "precision": 1.0, "recall": 1.0, "f1": 1.0},
        "classes": {"a": {"score": 0.9, "precision": 1.0, "recall": 1.0, "f1": 1.0}, "b": None},
    }
    assert points.summary() == {"score": 0.9, "precision": 1.0, "recall": 1.0, "f1": 1.0}


def test_a_class_of_which_nothing_is_found_has_the_threshold_for_all_and_counts_in_the_means() -> None:
    objects, detections = row(4)
    lost = tuple(Annotation(10 + image.id, image.id, 2, (0.0, 0.0, 10.0, 10.0), 100.0) for image in objects.images)
    objects = replace(objects, annotations=objects.annotations + lost)
    points = choose(objects, (*detections, Detection(1, 2, (30.0, 30.0, 10.0, 10.0), 0.95)))
    assert points.to_json()["classes"]["b"] == {"score": 0.9, "precision": 0.0, "recall": 0.0, "f1": 0.0}
    assert points.summary() == {"score": 0.9, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    # Below the threshold, no detection is left: precision is undefined.
    points = choose(objects, (*detections, Detection(1, 2, (30.0, 30.0, 10.0, 10.0), 0.5)))
    assert points.to_json()["classes"]["b"] == {"score": 0.9, "precision": None, "recall": 0.0, "f1": 0.0}
    assert points.summary() == {"score": 0.9, "precision": 1.0, "recall": 0.5, "f1": 0.5}


def test_from_200_images_on_the_other_half_measures() -> None:
    objects, detections = row(200)
    # In the images that measure, every second one, half of the correct detections have a score below the threshold.
    low = tuple(
        replace(item, score=0.2) if item.image_id % 4 == 0 and item.score == 0.9 else item for item in detections
    )
    point = choose(objects, low).all
    assert point is not None
    assert (point.score, point.precision, point.recall) == (0.9, 1.0, 0.5)
    assert choose(objects, low).confirmed
    assert not choose(*row(199)).confirmed
