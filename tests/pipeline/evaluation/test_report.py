"""The report, its tables and `fcos evaluate`."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import main
from pipeline.data import detections as results
from pipeline.evaluation import ground_truth as truth
from pipeline.evaluation import report, voc
from tests.support.scored_scenes import COCO_METRICS

A, B = (0.0, 0.0, 40.0, 40.0), (100.0, 0.0, 40.0, 40.0)


def evaluate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["evaluate", *map(str, arguments)])


def test_keys_of_the_report(coco_fixture: Path) -> None:
    objects = truth.read(coco_fixture / "gt.json")
    found = report.evaluate(objects, results.read(coco_fixture / "dets.json", objects)).metrics
    assert list(found) == [
        "coco",
        "voc",
        "per_class",
        "intervals",
        "errors",
        "calibration_error",
        "objects_beyond_limit",
        "operating_point",
        "images",
        "objects",
        "detections",
    ]
    assert list(found["coco"]) == COCO_METRICS
    assert list(found["voc"]) == ["mAP50_11point", "mAP50_area"]
    assert list(found["per_class"]) == [category.name for category in objects.categories]
    assert set(map(tuple, found["per_class"].values())) == {("AP", "AP50", "AP_low", "AP_high")}
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
    assert next(row for row in rows if row[:1] == ["person"])[1::3] == ["0.533", "0.788"]
    assert ["fire", "hydrant", "—", "—", "—", "—"] in rows
    assert "-1" not in run.stdout


def test_command_prints_voc(coco_fixture: Path) -> None:
    run = evaluate("--gt", coco_fixture / "gt.json", "--dets", coco_fixture / "dets.json", "--metric", "voc")
    objects = truth.read(coco_fixture / "gt.json")
    metrics = voc.evaluate(objects, results.read(coco_fixture / "dets.json", objects))
    lines = run.stdout.splitlines()
    assert lines[0].endswith(f"11-point, VOC2007       ] = {metrics.mAP50_11point:.3f}")
    assert lines[1].endswith(f"area, VOC2010 and later ] = {metrics.mAP50_area:.3f}")
    assert lines[3].split() == ["class", "11-point", "area"]
    assert len(lines) == 4 + 80


def test_command_prints_json(coco_fixture: Path) -> None:
    run = evaluate("--gt", coco_fixture / "gt.json", "--dets", coco_fixture / "dets.json", "--json")
    assert json.loads(run.stdout)["coco"]["AP"] == 0.504581


@pytest.mark.parametrize(("gt", "dets"), [("gt.json", "gt.json"), ("dets.json", "dets.json"), ("no", "dets.json")])
def test_command_errors_are_one_line(coco_fixture: Path, gt: str, dets: str) -> None:
    run = evaluate("--gt", coco_fixture / gt, "--dets", coco_fixture / dets)
    assert (run.exit_code, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith(f"fcos: {coco_fixture / (dets if gt == 'gt.json' else gt)}: ")
