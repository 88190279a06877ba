"""Planted label errors: their number and kind, and which candidates count as found."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks import label_errors
from benchmarks.label_errors import Label, Planted, iou
from pipeline.data import annotations, detections
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection

SIZES = dict.fromkeys(range(1, 51), (100, 100))
LABELS = [
    Label(image, 1 + (image + corner) % 3, (40.0 * corner + 5, 40.0 * corner + 5, 20.0, 30.0))
    for image in SIZES
    for corner in (0, 1)
]


def test_planted_errors() -> None:
    changed, planted = label_errors.plant(LABELS, SIZES, (1, 2, 3), np.random.default_rng(0))
    assert Counter(item.kind for item in planted) == dict.fromkeys(label_errors.KINDS, 5)
    assert len(changed) == 100
    by_kind = {kind: [item.label for item in planted if item.kind == kind] for kind in label_errors.KINDS}
    originals = set(LABELS)
    assert set(by_kind["missing"]) <= originals - set(changed)
    assert set(changed) - originals == {*by_kind["spurious"], *by_kind["wrong_class"], *by_kind["poor_box"]}
    for label in by_kind["wrong_class"]:
        [original] = [item for item in LABELS if (item.image, item.box) == (label.image, label.box)]
        assert original.category != label.category
    for label in by_kind["poor_box"]:
        same_image = [item for item in LABELS if (item.image, item.category) == (label.image, label.category)]
        assert 0.3 <= max(iou(item.box, label.box) for item in same_image) <= 0.7
    for label in by_kind["spurious"]:
        assert max(iou(item.box, label.box) for item in LABELS if item.image == label.image) <= 0.1


def test_errors_planted_in_val_are_found_by_a_perfect_detector(tmp_path: Path) -> None:
    objects = [Annotation(number, item.image, item.category, item.box, 600) for number, item in enumerate(LABELS, 1)]
    images = tuple(Image(number, f"{number}.png", *size) for number, size in SIZES.items())
    truth = AnnotationSet(tuple(Category(number, str(number)) for number in (1, 2, 3)), images, tuple(objects))
    annotations.write(truth, tmp_path / "data/unified/val.json")
    found = [Detection(item.image_id, item.category_id, item.bbox, 0.9) for item in objects]
    detections.write(found, tmp_path / "predictions/val.json")
    precisions = label_errors.measure_val(tmp_path, 2)
    assert precisions == {kind: [1.0, 1.0] for kind in label_errors.KINDS}
    assert "| wrong class | 1.000 ± 0.000 | 0.7 |" in label_errors.val_card(precisions)


def test_precision() -> None:
    first, second, other = (Label(1, 1, (10.0 * number, 0.0, 10.0, 10.0)) for number in range(3))
    nearly = Label(1, 0, (0.0, 0.0, 10.0, 8.0))  # IoU 0.8 with the first
    planted = [Planted("missing", first), Planted("missing", second), Planted("spurious", other)]
    assert label_errors.precision("missing", planted, [nearly, other, second]) == pytest.approx(1 / 2)
    assert label_errors.precision("missing", planted, [nearly, nearly]) == pytest.approx(1 / 2)  # found once
    assert label_errors.precision("spurious", planted, [first, other]) == 0  # one was planted
    assert label_errors.precision("spurious", planted, [other]) == 1
