"""The screening of options: its table, and variants that are valid parameters."""

import pytest

from benchmarks.screening import REFERENCE, VARIANTS, Result, table
from pipeline import recipes
from pipeline.overrides import override


def test_the_table_compares_with_the_reference_of_the_same_data_and_seed() -> None:
    results = [
        Result(REFERENCE, "digits", 0, 1.5, 1.0, 150, 60.0, 0.30, 0.5),
        Result("aligned", "digits", 0, 1.25, 0.5, 300, 59.0, 0.3333, 0.51),
        Result(REFERENCE, "bccd", 1, 1.5, 1.0, 120, 60.0, 0.40, 0.6),
        Result("aligned", "bccd", 1, 1.5, 1.1, 109, 60.0, 0.38, 0.6),
        Result("aligned", "bccd", 2, 1.5, 1.1, 109, 60.0, 0.39, 0.6),
        Result("equal", "bccd", 1, 1.5, 1.0, 120, 60.0, 0.3999, 0.6),
    ]
    assert table(results).splitlines()[2:] == [
        "| bccd | default | 1 | 1.50 | 1.00 | 120 | 40.0 | 60.0 | +0.0 |",
        "| bccd | equal | 1 | 1.50 | 1.00 | 120 | 40.0 | 60.0 | +0.0 |",
        "| bccd | aligned | 1 | 1.50 | 1.10 | 109 | 38.0 | 60.0 | -2.0 |",
        "| bccd | aligned | 2 | 1.50 | 1.10 | 109 | 39.0 | 60.0 |  |",
        "| digits | aligned | 0 | 1.25 | 0.50 | 300 | 33.3 | 51.0 | +3.3 |",
        "| digits | default | 0 | 1.50 | 1.00 | 150 | 30.0 | 50.0 | +0.0 |",
    ]


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_has_valid_parameters(name: str) -> None:
    assert override(recipes.load("cpu_lite0"), VARIANTS[name]).model.backbone == "efficientnet_lite0"
