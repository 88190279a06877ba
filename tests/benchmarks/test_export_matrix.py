"""The table of exports: its combinations, how it judges, and a row of it with the rarer options."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import export_matrix
from fcos.config import ARCHITECTURE
from fcos.locations import make_locations
from fcos.structures import Outputs


def test_each_value_and_each_pair_of_values_occurs() -> None:
    values = {"a": (1, 2, 3), "b": ("x", "y"), "c": (None, True), "d": (0.5, 1.0, 2.0)}
    found = export_matrix.pairwise(values)
    for first, second in itertools.combinations(values, 2):
        pairs = {(chosen[first], chosen[second]) for chosen in found}
        assert pairs == {*itertools.product(values[first], values[second])}
    assert 9 <= len(found) <= 12  # of 36 combinations; a and d alone have nine pairs
    alone = export_matrix.singles(values)
    assert alone == [{}, {"a": 2}, {"a": 3}, {"b": "y"}, {"c": True}, {"d": 1.0}, {"d": 2.0}]
    assert export_matrix.options().keys() == {*ARCHITECTURE}


def test_differences_of_outputs() -> None:
    locations = make_locations([(1, 2)], (8,))
    outputs = Outputs(torch.zeros(1, 2, 2), torch.full((1, 2, 4), 10.0), torch.zeros(1, 2), locations)
    same = export_matrix.Difference.of(outputs, outputs)
    assert (same.score, same.iou, same.holds) == (0, 1, True)
    ltrb = outputs.ltrb.clone()
    ltrb[0, 1, 2] = 10.2  # 20 pixels wide and 20.2
    moved = export_matrix.Difference.of(outputs, replace(outputs, ltrb=ltrb))
    assert (round(moved.iou, 4), moved.moved, moved.holds) == (0.9901, 1, False)
    # A score of 0.5, and of √(0.5 · σ(0.01)): 0.5 · √1.005 = 0.50125.
    other = export_matrix.Difference.of(outputs, replace(outputs, quality=torch.tensor([[0.0, 0.01]])))
    assert (round(other.score, 5), other.holds) == (0.00125, False)


def test_a_detector_of_rarer_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_matrix, "_check_torch", lambda *_: "0, 1")  # the tests of `fcos export` have a program
    chosen = {
        "levels": (5,), "tower_depth": 0, "quality": "none", "box_output": "exp", "locations": "torchvision",
        "letterbox": True, "score_mode": "combined",
    }  # fmt: skip
    for found in export_matrix.check(chosen, tmp_path):
        assert "DIFFERS" not in found
        score, iou = found.split(", ")[-2:]
        assert float(score) < 1e-4
        assert float(iou) > 0.999
