"""Random scenes: hotcoco against pycocotools, and the VOC metric against a slow reference."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from hypothesis import given, settings

from fcos.config import InputSize
from pipeline.data import detections as results
from pipeline.data.annotations import AnnotationSet
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, object_sizes, voc
from pipeline.evaluation import ground_truth as truth
from pipeline.evaluation.diagnostics import diagnose
from tests.support.random_scenes import detected_objects, scenes


@settings(max_examples=150, deadline=None)
@given(scenes())
def test_hotcoco_equals_pycocotools(scene: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    assert coco.fast_ap(*scene) == pytest.approx(coco.evaluate(*scene).values, abs=1e-9)


def test_hotcoco_equals_pycocotools_on_500_images() -> None:
    scene = detected_objects(0, images=500)
    expected = coco.evaluate(*scene).values
    assert coco.fast_ap(*scene) == pytest.approx(expected, abs=1e-9)
    assert 0.1 < (expected["AP"] or 0) < 0.9


def test_hotcoco_equals_pycocotools_on_coco(coco_fixture: Path) -> None:
    objects = truth.read(coco_fixture / "gt.json")
    detections = results.read(coco_fixture / "dets.json", objects)
    assert coco.fast_ap(objects, detections) == pytest.approx(coco.evaluate(objects, detections).values, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(scenes())
def test_a_raised_limit_equals_pycocotools(scene: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    """pycocotools has the values, although its summary gives −1 for AP."""
    evaluation = coco.evaluate(*scene).evaluation
    evaluation.params.maxDets = [1, 10, 3]
    with redirect_stdout(io.StringIO()):
        evaluation.evaluate()
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., 0, -1], evaluation.eval["recall"][..., 0, -1]
    numbers = coco.fast_ap(*scene, max_detections=3)
    for name, values in {"AP": precision, "AP50": precision[0], "AP75": precision[5], "AR3": recall}.items():
        assert numbers[name] == pytest.approx(coco.mean_precision(values), abs=1e-9)


@pytest.mark.parametrize("input_size", [None, InputSize((40, 60)), InputSize((150, 150), letterbox=True)])
@settings(max_examples=12, deadline=None)
@given(scene=scenes())
def test_ap_by_size_equals_pycocotools(
    input_size: InputSize | None, scene: tuple[AnnotationSet, tuple[Detection, ...]]
) -> None:
    """Each bin by pycocotools alone, on objects and detections whose areas are those in the resized image."""
    objects, detections = scene
    side = {image.id: (image.height, image.width) for image in objects.images}
    sized = object_sizes.evaluate(objects, detections, input_size)
    assert diagnose(objects, detections, sized.evaluation) == diagnose(objects, detections)
    bins = sized.summarize()
    evaluation = coco.evaluate(objects, detections).evaluation
    for record in [*evaluation.cocoGt.dataset["annotations"], *evaluation.cocoDt.dataset["annotations"]]:
        scale = input_size.scale(*side[record["image_id"]]) if input_size else 1
        record["area"] = record["bbox"][2] * record["bbox"][3] * scale**2
    for (name, found), low, high in zip(bins.items(), object_sizes.BOUNDS, object_sizes.BOUNDS[1:], strict=False):
        evaluation.params.areaRng = [[low**2, high**2 - 1e-9]]
        evaluation.params.areaRngLbl = ["all"]
        with redirect_stdout(io.StringIO()):
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"][..., 0, -1]
        assert found["AP"] == pytest.approx(coco.mean_precision(precision), abs=1e-9), name
        assert found["AP50"] == pytest.approx(coco.mean_precision(precision[0]), abs=1e-9), name
        sizes = [
            (item.bbox[2] * item.bbox[3]) ** 0.5 * (input_size.scale(*side[item.image_id]) if input_size else 1)
            for item in objects.annotations
            if not (item.iscrowd or item.difficult)
        ]
        assert found["objects"] == sum(low <= size < high for size in sizes)


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)


def verdicts(truth: AnnotationSet, detections: tuple[Detection, ...], category: int) -> list[bool]:
    """Whether each counted detection is correct, highest score first."""
    taken: set[int] = set()
    judged = []
    for detection in sorted((d for d in detections if d.category_id == category), key=lambda d: d.score, reverse=True):
        best, best_overlap = None, 0.0
        for each in truth.annotations:
            shared = overlap(detection.bbox, each.bbox)
            if (each.image_id, each.category_id) == (detection.image_id, category) and shared > best_overlap:
                best, best_overlap = each, shared
        if best is None or best_overlap < 0.5:
            judged.append(False)
        elif not (best.difficult or best.iscrowd):
            judged.append(best.id not in taken)
            taken.add(best.id)
    return judged


def average_precisions(judged: list[bool], objects: int) -> tuple[float, float]:
    """The 11-point and area definitions, literally."""
    points = [(sum(judged[: n + 1]) / objects, sum(judged[: n + 1]) / (n + 1)) for n in range(len(judged))]
    eleven = sum(max([p for r, p in points if r >= k * 0.1], default=0.0) for k in range(11)) / 11
    area, before = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - before) * max(p for r, p in points if r >= recall)
        before = recall
    return eleven, area


@settings(max_examples=300, deadline=None)
@given(scenes())
def test_voc_equals_the_slow_reference(scene: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    truth, detections = scene
    metrics = voc.evaluate(truth, detections)
    elevens, areas = [], []
    for category in truth.categories:
        mine = [each for each in truth.annotations if each.category_id == category.id]
        objects = sum(not (each.difficult or each.iscrowd) for each in mine)
        curve = metrics.per_class[category.name]
        judged = verdicts(truth, detections, category.id)
        assert (curve.objects, curve.correct.tolist()) == (objects, judged)
        if objects:
            eleven, area = average_precisions(judged, objects)
            assert curve.average_precision_11point() == pytest.approx(eleven)
            assert curve.average_precision_area() == pytest.approx(area)
            elevens.append(eleven)
            areas.append(area)
        else:
            assert curve.average_precision_11point() is curve.average_precision_area() is None
    assert metrics.mAP50_11point == (pytest.approx(sum(elevens) / len(elevens)) if elevens else None)
    assert metrics.mAP50_area == (pytest.approx(sum(areas) / len(areas)) if areas else None)
