"""Ablation: variants are valid parameters, and the table has the experiments' results."""

from typing import Any

import pytest

from benchmarks import ablation
from benchmarks.ablation import Run
from pipeline import params
from pipeline.overrides import override
from tests.support.paths import PROJECT

PARAMS = PROJECT / "params.yaml"


def with_settings(settings: list[str]) -> params.Params:
    """params.yaml as `dvc exp run -S` changes it."""
    return override(params.load(PARAMS), settings)


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_a_variant_differs_from_the_reference_only_by_its_changes(name: str) -> None:
    reference = with_settings(ablation.settings(ablation.VARIANTS["reference"], 7)).flat()
    changes = ablation.VARIANTS[name].changes
    changed = with_settings(ablation.settings(ablation.VARIANTS[name], 7)).flat()
    assert reference["seed"] == changed["seed"] == 7
    different = {key for key, value in changed.items() if value != reference[key]}
    assert different == {change.split("=")[0] for change in changes}


def test_no_two_variants_are_the_same() -> None:
    settings = [tuple(ablation.settings(variant, 0)) for variant in ablation.VARIANTS.values()]
    assert len(set(settings)) == len(settings)


def experiment(name: str | None, scores: dict[str, float] | None) -> dict[str, Any]:
    """An entry of the output of `dvc exp show --json`."""
    metrics = {"metrics/evaluate.json": {"data": {"coco": scores}}} if scores else {}
    return {"name": name, "revs": [{"rev": "0" * 40, "data": {"metrics": metrics}}]}


BASELINES = [
    {"rev": "workspace", "experiments": None},
    {
        "rev": "1" * 40,
        "experiments": [
            experiment("ablation-giou-1", {"AP": 0.5, "AP50": 0.8}),
            experiment("ablation-reference-0", {"AP": 0.41, "AP50": 0.7}),
            experiment("ablation-giou-0", {"AP": 0.4, "AP50": 0.7}),
            experiment("ablation-atss-0", None),  # failed
            experiment("ablation-unheard-of-0", {"AP": 0.9, "AP50": 0.9}),
            experiment("other", {"AP": 0.9, "AP50": 0.9}),
            experiment(None, None),
        ],
    },
]


def test_runs_are_sorted_by_variant() -> None:
    assert ablation.read_runs(BASELINES) == [
        Run("reference", 0, {"AP": 0.41, "AP50": 0.7}),
        Run("giou", 0, {"AP": 0.4, "AP50": 0.7}),
        Run("giou", 1, {"AP": 0.5, "AP50": 0.8}),
    ]


def test_table() -> None:
    lines = ablation.table(ablation.read_runs(BASELINES)).splitlines()
    rows = {line.split(" | ")[0].strip("| "): line for line in lines}
    assert set(ablation.VARIANTS) <= set(rows)
    # 40 and 50: mean 45; standard deviation √((5² + 5²) / (2 − 1)) = √50.
    assert rows["giou"].endswith("| 2 | 45.0 ± 7.1 (40.0–50.0) | 75.0 ± 7.1 (70.0–80.0) |")
    assert rows["reference"].endswith("| 1 | 41.0 | 70.0 |")
    assert rows["atss"].endswith("| 0 | – | – |")


def test_card_names_what_varies() -> None:
    text = ablation.card(ablation.read_runs(BASELINES))
    assert "--seeds 2\n" in text
    assert "download.digits.train=400" in text
    assert "The seed changes the initial weights" in text
    assert ablation.VARIANTS["giou"].description in text
