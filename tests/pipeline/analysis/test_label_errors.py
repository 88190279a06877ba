"""Candidates for label errors, their ranks computed by hand, and planted errors among synthetic detections."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.analysis import label_errors
from pipeline.analysis.label_errors import Candidate
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection

CAT, DOG = Category(3, "cat"), Category(7, "dog")
Box = tuple[float, float, float, float]
BOX: Box = (10.0, 10.0, 20.0, 20.0)


def truth(*annotations: Annotation, images: int = 1) -> AnnotationSet:
    pictures = tuple(Image(number, f"{number}.jpg", 200, 100) for number in range(1, images + 1))
    return AnnotationSet((CAT, DOG), pictures, annotations)


def label(id: int = 1, category: Category = CAT, box: Box = BOX, **flags: int) -> Annotation:
    return Annotation(id, 1, category.id, box, box[2] * box[3], **flags)


def found(score: float, category: Category = CAT, box: Box = BOX) -> Detection:
    return Detection(1, category.id, box, score)


def find(labels: AnnotationSet, *detections: Detection) -> list[Candidate]:
    return label_errors.find({"val": labels}, {"val": detections})


def test_a_confirmed_label_and_an_image_without_anything_give_no_candidate() -> None:
    assert find(truth(label()), found(0.9)) == []
    assert find(truth()) == []


def test_missing_is_ranked_by_the_score_and_proposed_once() -> None:
    elsewhere: Box = (100.0, 10.0, 20.0, 20.0)
    nearly: Box = (102.0, 10.0, 20.0, 20.0)  # IoU 18/22
    candidates = find(truth(label()), found(0.9), found(0.6, DOG, elsewhere), found(0.5, CAT, nearly))
    assert candidates == [Candidate("missing", 0.6, 1, "1.jpg", "val", None, elsewhere, "dog")]


@pytest.mark.parametrize(("shift", "kinds"), [(10.0, {"poor_box"}), (11.0, {"missing", "poor_box"})])
def test_a_detection_that_overlaps_a_label_enough_shows_its_object(shift: float, kinds: set[str]) -> None:
    # IoU 10/30 and 9/31, above and below DIFFERENT_OBJECT_IOU.
    candidates = find(truth(label()), found(0.9, box=(10.0 + shift, 10.0, 20.0, 20.0)))
    assert {candidate.kind for candidate in candidates} == kinds


def test_wrong_class_is_ranked_by_both_classes() -> None:
    half: Box = (10.0, 10.0, 20.0, 16.0)  # IoU 0.8
    candidates = find(truth(label()), found(0.7, DOG, half), found(0.25))
    [candidate] = [item for item in candidates if item.kind == "wrong_class"]
    assert candidate.rank_score == pytest.approx(0.7 * 0.8 * (1 - 0.25))
    assert (candidate.annotation_id, candidate.bbox, candidate.category) == (1, None, "dog")


def test_poor_box_proposes_the_box_of_the_best_supported_detection() -> None:
    close: Box = (10.0, 10.0, 20.0, 12.0)  # IoU 0.6
    far: Box = (10.0, 10.0, 20.0, 4.0)  # IoU 0.2
    candidates = find(truth(label()), found(0.5, box=close), found(0.8, box=far))
    [candidate] = [item for item in candidates if item.annotation_id]
    assert candidate.rank_score == pytest.approx(0.5 * 0.4)
    assert (candidate.kind, candidate.bbox, candidate.category) == ("poor_box", close, None)


def test_spurious_is_ranked_by_what_labels_of_its_class_and_size_usually_have() -> None:
    boxes: list[Box] = [(40.0 * index, 10.0, 20.0, 20.0) for index in range(4)]
    labels = truth(*(label(index + 1, box=box) for index, box in enumerate(boxes)))
    [candidate] = find(labels, *(found(0.8, box=box) for box in boxes[:3]))
    assert (candidate.kind, candidate.annotation_id) == ("spurious", 4)
    assert candidate.rank_score == pytest.approx(0.6)  # the mean of 0.8, 0.8, 0.8 and 0, minus 0


def test_a_class_that_is_never_found_has_no_spurious_labels() -> None:
    assert (
        find(truth(label(category=DOG), label(2, box=(60.0, 10.0, 20.0, 20.0))), found(0.9, box=(60, 10, 20, 20))) == []
    )


def test_a_label_is_compared_with_labels_of_similar_size() -> None:
    """Small objects are never found, large ones always: the large one that isn't is the only candidate."""
    count = 2 * label_errors.NUM_SIMILAR
    small = [replace(label(index, box=(0, 0, 5, 5)), image_id=index) for index in range(1, count)]
    large = [replace(label(count + index, box=(50, 0, 50, 50)), image_id=index) for index in range(1, count)]
    detections = [Detection(item.image_id, CAT.id, item.bbox, 0.8) for item in large if item.image_id != 150]
    candidates = find(truth(*small, *large, images=count), *detections)
    best = candidates[0]
    assert (best.kind, best.image_id, best.annotation_id) == ("spurious", 150, count + 150)
    assert best.rank_score == pytest.approx(0.8 * 100 / 101)


def test_crowds_and_difficult_objects_are_no_candidates() -> None:
    crowd, difficult = label(1, iscrowd=1, box=(0.0, 0.0, 50.0, 50.0)), label(2, difficult=1, box=(100.0, 0, 50, 50))
    assert find(truth(crowd, difficult), found(0.9), found(0.9, DOG, (100.0, 0.0, 50.0, 50.0))) == []


def test_the_record_in_the_file() -> None:
    box = (1 / 3, 2.0, 20.0, 20.0)
    assert Candidate("missing", 2 / 3, 4, "a/1.jpg", "train", None, box, "cat").to_json() == {
        "image_id": 4, "file_name": "a/1.jpg", "kind": "missing", "rank_score": 0.666667, "annotation_id": None,
        "bbox": [0.33, 2.0, 20.0, 20.0], "category": "cat", "split": "train",
    }  # fmt: skip


def test_first_of_each_kind() -> None:
    candidates = find(
        truth(label()), found(0.9), *(found(0.6, box=(40.0 * index, 50.0, 20.0, 20.0)) for index in (0, 1, 2))
    )
    assert [item.bbox for item in label_errors.first_of_each_kind(candidates, 2)] == [(0, 50, 20, 20), (40, 50, 20, 20)]


def test_planted_errors_are_found() -> None:
    """A detector that finds three quarters of the objects, with noise in scores and boxes."""
    rng = np.random.default_rng(0)
    labels, detections, planted = list[Annotation](), list[Detection](), dict[int, str]()
    missing = set[tuple[int, Box]]()
    for image in range(1, 251):
        for column in range(4):
            id, box = 4 * image + column, (50.0 * column + 5, 20.0, float(rng.integers(20, 40)), 40.0)
            category, other = (CAT, DOG) if rng.random() < 0.5 else (DOG, CAT)
            moved = (box[0] + rng.normal(0, 1), box[1] + rng.normal(0, 1), box[2], box[3])
            if rng.random() < 0.75:
                detections.append(Detection(image, category.id, moved, float(rng.uniform(0.4, 0.9))))
            item = Annotation(id, image, category.id, box, box[2] * box[3])
            if id % 20 == 0:
                missing.add((image, box))
                continue
            if id % 20 == 1:
                item, planted[id] = replace(item, category_id=other.id), "wrong_class"
            elif id % 20 == 2:
                item, planted[id] = replace(item, bbox=(box[0], box[1] + 20, box[2], 20.0)), "poor_box"  # IoU 0.5
            labels.append(item)
    candidates = find(truth(*labels, images=250), *detections)
    for kind in ("wrong_class", "poor_box"):
        first = [item for item in candidates if item.kind == kind][:30]
        assert all(planted.get(item.annotation_id or 0) == kind for item in first), kind
    first = [item for item in candidates if item.kind == "missing"][:30]
    assert all(
        any(image == item.image_id and abs(box[0] - (item.bbox or box)[0]) < 10 for image, box in missing)
        for item in first
    )
