"""COCO metrics without detections, without objects, and with ignored objects."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.annotations import Category
from pipeline.data.detections import Detection
from pipeline.evaluation import coco
from pipeline.evaluation import ground_truth as truth

ENGINES = pytest.mark.parametrize("numbers", [lambda *a: coco.evaluate(*a).values, coco.fast_ap], ids=["slow", "fast"])
BOX, OTHER, FAR = (10.0, 10.0, 50.0, 50.0), (100.0, 100.0, 50.0, 50.0), (200.0, 200.0, 50.0, 50.0)


@ENGINES
def test_without_detections_ap_is_zero(cats: Any, numbers: Any) -> None:
    scores = numbers(cats(BOX), ())
    assert (scores["AP"], scores["AR100"], scores["APm"]) == (0, 0, 0)
    assert scores["APs"] is scores["APl"] is None  # there is no small and no large object


@ENGINES
def test_without_objects_ap_is_none(cats: Any, found: Any, numbers: Any) -> None:
    assert set(numbers(cats(), found((BOX, 0.9))).values()) == {None}


def test_a_class_without_objects_has_no_ap(cats: Any, found: Any) -> None:
    assert coco.evaluate(cats(), found((BOX, 0.9))).per_class == {"cat": {"AP": None, "AP50": None}}


@ENGINES
@pytest.mark.parametrize("kind", ["difficult", "crowds"])
def test_ignored_objects_are_neither_missed_nor_wrong(cats: Any, found: Any, numbers: Any, kind: str) -> None:
    scene = cats(BOX, OTHER, **{kind: (1,)})
    assert numbers(scene, found((BOX, 0.5)))["AP"] == pytest.approx(1)
    assert numbers(scene, found((OTHER, 0.9), (OTHER, 0.8), (BOX, 0.5)))["AP"] == pytest.approx(1)
    assert numbers(cats(BOX, OTHER), found((BOX, 0.5)))["AP"] < 0.6
    # A wrong box precedes the correct one: the precision is 1/2 at every recall.
    assert numbers(scene, found((FAR, 0.9), (BOX, 0.5)))["AP"] == pytest.approx(0.5)


@ENGINES
def test_iou_thresholds(cats: Any, found: Any, numbers: Any) -> None:
    """IoU 40/50 = 0.8: correct at the thresholds 0.5 … 0.8, seven of ten."""
    scores = numbers(cats((0.0, 0.0, 50.0, 10.0)), found(((0.0, 0.0, 40.0, 10.0), 0.5)))
    assert scores["AP"] == pytest.approx(0.7)
    assert scores["AP50"] == scores["AP75"] == pytest.approx(1)


@ENGINES
def test_objects_with_id_zero_are_counted(cats: Any, found: Any, numbers: Any) -> None:
    scene = cats(BOX)
    scene = replace(scene, annotations=(replace(scene.annotations[0], id=0),))
    assert numbers(scene, found((BOX, 0.5)))["AP"] == pytest.approx(1)


@ENGINES
def test_ground_truth_as_detections_scores_one(coco_fixture: Path, perfect: Any, numbers: Any) -> None:
    objects = truth.read(coco_fixture / "gt.json")
    scores = numbers(objects, perfect(objects))
    assert [scores[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")] == pytest.approx([1] * 7)


@ENGINES
def test_nothing_is_printed(cats: Any, found: Any, numbers: Any, capfd: pytest.CaptureFixture[str]) -> None:
    numbers(cats(BOX), found((BOX, 0.9)))
    assert capfd.readouterr() == ("", "")


def test_per_class_metrics_follow_category_ids(cats: Any) -> None:
    """Category ids in descending order: metrics follow the id, not the position."""
    scene = replace(cats(BOX), categories=(Category(7, "cat"), Category(3, "dog")))
    scene = replace(scene, annotations=(*scene.annotations, replace(scene.annotations[0], id=2, category_id=3)))
    metrics = coco.evaluate(scene, (Detection(1, 7, BOX, 0.5), Detection(1, 3, FAR, 0.5)))
    assert {name: numbers["AP50"] for name, numbers in metrics.per_class.items()} == pytest.approx({"cat": 1, "dog": 0})
