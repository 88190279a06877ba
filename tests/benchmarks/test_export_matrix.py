"""The table of exports: its combinations, how it judges, and a row of it with the rarer options."""

import itertools
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import export_matrix
from fcos.config import ARCHITECTURE
from fcos.locations import make_locations
from fcos.postprocess import Postprocess
from fcos.structures import Outputs
from pipeline.errors import PipelineError
from pipeline.export import detector_files


def test_each_value_and_each_pair_of_values_occurs() -> None:
    values = {"a": (1, 2, 3), "b": ("x", "y"), "c": (None, True), "d": (0.5, 1.0, 2.0)}
    found = export_matrix.pairwise(values)
    for first, second in itertools.combinations(values, 2):
        pairs = {(chosen[first], chosen[second]) for chosen in found}
        assert pairs == {*itertools.product(values[first], values[second])}
    assert 9 <= len(found) <= 12  # of 36 combinations; a and d alone have nine pairs
    alone = export_matrix.singles(values)
    assert alone == [{}, {"a": 2}, {"a": 3}, {"b": "y"}, {"c": True}, {"d": 1.0}, {"d": 2.0}]
    options = export_matrix.options()
    assert options.keys() == {*ARCHITECTURE}
    alone = export_matrix.singles(options)
    assert {"neck": "bifpn"} in alone
    assert {"distribution_max": 8, "box_output": "distribution"} in alone  # alone, it would have no effect


def test_differences_of_outputs() -> None:
    locations = make_locations([(1, 2)], (8,))
    outputs = Outputs(torch.zeros(1, 2, 2), torch.full((1, 2, 4), 10.0), torch.zeros(1, 2), locations)
    same = export_matrix.Difference.of(outputs, outputs)
    assert (same.score, same.iou, same.holds) == (0, 1, True)
    ltrb = outputs.ltrb.clone()
    ltrb[0, 1, 2] = 10.2  # 20 pixels wide and 20.2
    moved = export_matrix.Difference.of(outputs, replace(outputs, ltrb=ltrb))
    assert (round(moved.iou, 4), moved.moved, moved.holds) == (0.9901, 1, False)
    thin = replace(outputs, ltrb=torch.tensor([0.0, 10.0, 0.0, 10.0]).expand(1, 2, 4))
    line = export_matrix.Difference.of(thin, replace(thin, ltrb=thin.ltrb + torch.tensor([0.0, 0.0, 1e-6, 0.0])))
    assert (line.iou, line.moved, line.holds) == (1, 0, True)
    infinite = replace(outputs, ltrb=torch.full((1, 2, 4), torch.inf))  # as exp of random weights
    beyond = export_matrix.Difference.of(infinite, replace(infinite, ltrb=torch.full((1, 2, 4), 1e30)))
    assert (beyond.iou, beyond.moved, beyond.holds) == (1, 0, True)
    # A score of 0.5, and of √(0.5 · σ(0.01)): 0.5 · √1.005 = 0.50125.
    other = export_matrix.Difference.of(outputs, replace(outputs, quality=torch.tensor([[0.0, 0.01]])))
    assert (round(other.score, 5), other.holds) == (0.00125, False)


def test_a_detector_of_rarer_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_torch = export_matrix.Result("0, 1", holds=True)
    monkeypatch.setattr(export_matrix, "_check_torch", lambda *_: as_torch)  # the tests of `fcos export` have a program
    chosen = {
        "levels": (5,), "tower_depth": 0, "quality": "none", "box_output": "exp", "locations": "torchvision",
        "letterbox": True, "score_mode": "combined",
    }  # fmt: skip
    for found in export_matrix.check(chosen, tmp_path):
        assert found.holds
        score, iou = found.text.split(", ")[-2:]
        assert float(score) < 1e-4
        assert float(iou) > 0.999


def test_only_soft_suppression_may_have_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PipelineError("an operator is missing")

    parts = Namespace(postprocess=Postprocess(nms="soft_linear"))
    refused = export_matrix._check_complete(None, None, parts, tmp_path)  # type: ignore[arg-type]
    assert (refused.text.split(":")[0], refused.holds) == ("postprocess.nms soft_linear", True)
    monkeypatch.setattr(detector_files, "check_postprocess", refuse)
    parts = Namespace(postprocess=Postprocess())
    found = export_matrix._check_complete(None, None, parts, tmp_path)  # type: ignore[arg-type]
    assert found == ("an operator is missing", False)
    monkeypatch.setattr(detector_files, "write_torch", refuse)
    assert export_matrix._check_torch(None, parts, tmp_path) == ("an operator is missing", False)  # type: ignore[arg-type]
    for results, status in (([refused], 0), ([refused, found], 1)):
        monkeypatch.setattr(export_matrix, "rows", lambda _, results=results: [("default", results, 1.0)])
        monkeypatch.setattr("sys.argv", ["export_matrix", "--singles"])
        with pytest.raises(SystemExit) as ended:
            export_matrix.main()
        assert ended.value.code == status
