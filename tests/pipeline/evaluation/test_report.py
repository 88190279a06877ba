"""The report, its tables and `fcos evaluate`."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.data import detections as results
from pipeline.evaluation import ground_truth as truth
from pipeline.evaluation import report, tables, voc
from tests.support.scored_scenes import COCO_METRICS

A, B = (0.0, 0.0, 40.0, 40.0), (100.0, 0.0, 40.0, 40.0)


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_keys_of_the_report(coco_fixture: Path) -> None:
    objects = truth.read(coco_fixture / "gt.json")
    found = report.evaluate(objects, results.read(coco_fixture / "dets.json", objects)).metrics
    assert list(found) == [
        "coco",
        "coco_raised_limit",
        "voc",
        "per_class",
        "intervals",
        "by_size",
        "errors",
        "calibration_error",
        "objects_beyond_limit",
        "highest_possible_AP",
        "objects_beyond_max_detections",
        "operating_point",
        "images",
        "objects",
        "detections",
    ]
    assert list(found["coco"]) == COCO_METRICS
    assert list(found["voc"]) == ["mAP50_11point", "mAP50_area"]
    assert list(found["per_class"]) == [category.name for category in objects.categories]
    assert set(map(tuple, found["per_class"].values())) == {
        ("objects", "AP", "AP50", "AP_low", "AP_high", "score", "precision", "recall", "f1")
    }
    assert (found["images"], found["objects"], found["detections"]) == (100, 839, 734)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_perfect_detections_score_one_and_missing_sizes_are_null(cats: Any, found: Any) -> None:
    scores = report.evaluate(cats(A, B), found((A, 0.9), (B, 0.9))).metrics
    assert scores["coco"]["AP"] == scores["voc"]["mAP50_area"] == scores["per_class"]["cat"]["AP"] == 1.0
    assert scores["coco"]["APs"] is None


def test_command_prints_the_lines_of_pycocotools(coco_fixture: Path) -> None:
    run = evaluate("--gt", coco_fixture / "gt.json", "--dets", coco_fixture / "dets.json")
    expected = (coco_fixture / "expected.txt").read_text().split("# printed by summarize()\n")[1].split("\n\n")[0]
    assert (run.exit_code, run.stderr) == (0, "")
    assert run.stdout.startswith(expected + "\n\n class ")
    rows = [line.split() for line in run.stdout.splitlines()]
    assert next(row for row in rows if row[:1] == ["person"])[1:6] == ["250", "0.533", "0.489", "0.565", "0.788"]
    assert ["fire", "hydrant", "0", *"———————"] in rows
    assert ["size", "in", "pixels", "of", "the", "image", "objects", "AP", "AP50"] in rows
    objects = [row[1] for row in rows if re.fullmatch(r"\d+(–\d+|\+)", row[0] if row else "")]
    assert list(map(int, objects)) == [12, 89, 214, 180, 143, 117, 69, 6]
    assert not re.search(r"(?<!\S)-1", run.stdout)
    assert " 95 % intervals: AP 0.369 to 0.554, AP50 0.562 to 0.755\n" in run.stdout


def test_precision_and_recall_of_each_class_and_their_means(coco_fixture: Path) -> None:
    objects = truth.read(coco_fixture / "gt.json")
    found = report.evaluate(objects, results.read(coco_fixture / "dets.json", objects))
    points = {name: point for name, point in found.operating_points.classes.items() if point}
    assert len(points) == 70  # the classes with objects; no detection of two is correct
    for name, values in found.metrics["per_class"].items():
        point = points.get(name)
        assert values["precision"] == (pytest.approx(point.precision, abs=1e-6) if point else None)
        assert values["recall"] == (pytest.approx(point.recall, abs=1e-6) if point else None)
    lines = tables.metric_table(found.metrics, "coco").splitlines()
    values = [[getattr(point, name) for point in points.values()] for name in ("precision", "recall")]
    means = [np.mean([value for value in column if value is not None]) for column in values]
    (row,) = (line.split() for line in lines if line.startswith(" (all)"))
    assert row[-3:] == ["—", *(f"{mean:.3f}" for mean in means)]  # each class has its own threshold
    counts = Counter(item.category_id for item in objects.annotations if not item.iscrowd)
    few = sum(count < 20 for count in counts.values())
    assert any(line.startswith(f" {few} of {len(counts)} classes have fewer than 20 objects: ") for line in lines)
    assert int(row[1]) == counts.total() == 830


def test_one_class_with_few_objects(cats: Any, found: Any) -> None:
    box = (10.0, 10.0, 30.0, 30.0)
    lines = tables.metric_table(report.evaluate(cats(box), found((box, 0.9))).metrics, "coco").splitlines()
    classes, _, rest = next(line for line in lines if "fewer than" in line).partition(" has ")
    assert classes == " 1 of 1 class"
    assert rest == "fewer than 20 objects: its AP is likely too high, and the interval is wide"


def test_150_objects_in_an_image(cats: Any, found: Any) -> None:
    """COCO counts 100 detections; the second block counts as many as the detector keeps."""
    boxes = [(40.0 * column, 40.0 * row, 30.0, 30.0) for column in range(15) for row in range(10)]
    detections = found(*((box, 0.5 + index / 1000) for index, box in enumerate(boxes)))
    scores = report.evaluate(cats(*boxes), detections, max_detections=120).metrics
    assert scores["coco"]["AP"] == scores["highest_possible_AP"] == pytest.approx(67 / 101, abs=1e-6)
    assert (scores["objects_beyond_limit"], scores["objects_beyond_max_detections"]) == (50, 30)
    assert scores["coco_raised_limit"] == {"max_detections": 120, "AR1": 0.006667, "AR10": 0.066667, "AR120": 0.8} | {
        name: pytest.approx(81 / 101, abs=1e-6) for name in ("AP", "AP50", "AP75", "APs")
    } | dict.fromkeys(("APm", "APl", "ARm", "ARl")) | {"ARs": 0.8}
    table = tables.metric_table(scores, "coco")
    assert " 50 objects beyond COCO's limit of 100 detections of a class in an image: AP can't exceed 0.663\n" in table
    assert table.endswith(" 30 objects beyond postprocess.max_detections, the most detections in an image")
    assert " Average Recall     (AR) @[ IoU=0.50:0.95 | area=   all | maxDets=120 ] = 0.800" in table
    assert "-1" not in table
    # With 100 detections or fewer, the reported twelve say the same.
    assert report.evaluate(cats(*boxes), detections, max_detections=100).metrics["coco_raised_limit"] is None


def test_command_prints_voc(coco_fixture: Path) -> None:
    run = evaluate("--gt", coco_fixture / "gt.json", "--dets", coco_fixture / "dets.json", "--metric", "voc")
    objects = truth.read(coco_fixture / "gt.json")
    metrics = voc.evaluate(objects, results.read(coco_fixture / "dets.json", objects))
    lines = run.stdout.splitlines()
    assert lines[0].endswith(f"11-point, VOC2007       ] = {metrics.mAP50_11point:.3f}")
    assert lines[1].endswith(f"area, VOC2010 and later ] = {metrics.mAP50_area:.3f}")
    assert lines[3].split() == ["class", "11-point", "area"]
    assert len(lines) == 4 + 80 + 4
    assert lines[-1].startswith(" Protocol: VOC's development kit")


def test_command_prints_json(coco_fixture: Path) -> None:
    run = evaluate("--gt", coco_fixture / "gt.json", "--dets", coco_fixture / "dets.json", "--json")
    assert json.loads(run.stdout)["coco"]["AP"] == 0.504581


@pytest.mark.parametrize(("gt", "dets"), [("gt.json", "gt.json"), ("dets.json", "dets.json"), ("no", "dets.json")])
def test_command_errors_are_one_line(coco_fixture: Path, gt: str, dets: str) -> None:
    run = evaluate("--gt", coco_fixture / gt, "--dets", coco_fixture / dets)
    assert (run.exit_code, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith(f"fcos: {coco_fixture / (dets if gt == 'gt.json' else gt)}: ")


@pytest.mark.parametrize("boxes", [(), ((A, 0.5),)])
def test_without_objects_nothing_but_counts_has_a_value(cats: Any, found: Any, boxes: Any) -> None:
    scores = report.evaluate(cats(), found(*boxes), max_detections=150).metrics
    wrong = len(boxes)
    numbers = {"max_detections": 150, "objects": 0, "images": 1, "detections": wrong}
    assert {error["AP50_cost"] for error in scores["errors"].values()} == {None}
    assert scores["calibration_error"] == (0.5 if boxes else None)
    for group in ("coco", "coco_raised_limit", "voc", "operating_point", *scores["by_size"], *scores["per_class"]):
        values = scores.get(group) or scores["by_size"].get(group) or scores["per_class"][group]
        assert {name: value for name, value in values.items() if value is not None} == {
            name: number for name, number in numbers.items() if name in values
        }
    table = tables.metric_table(scores, "coco")
    assert "nan" not in table
    assert not re.search(r"(^|\s)-\d", table)
