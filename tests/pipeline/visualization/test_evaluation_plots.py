"""The files of the plots: tables that DVC reads and pictures of any number of classes with any names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.evaluation.plot_tables import BACKGROUND, GRID, Table
from pipeline.visualization.evaluation_plots import write_plots
from pipeline.visualization.figures import write_table
from tests.support.paths import PROJECT

ODD_NAMES = ["$x", "a$\\frac$", "_hidden", "狗", "a name of 40 letters, which is too long"]


def make_tables(names: list[str]) -> dict[str, Table]:
    labels, curve = [*names, BACKGROUND], 1 - GRID**2
    by_class = {"class": np.repeat(np.array(names, dtype=object), len(GRID))}
    x = np.tile(GRID, len(names))
    bars = np.linspace(0.2, 0.8, len(names))
    cells = len(labels) ** 2
    return {
        "precision_recall": {"recall": GRID, "precision": curve},
        "precision_recall_by_class": by_class | {"recall": x, "precision": np.tile(curve, len(names))},
        "scores": {"score": GRID, "precision": [np.nan, *curve[1:]], "recall": curve, "F1": curve},
        "f1_by_class": by_class | {"score": x, "F1": np.tile(curve, len(names))},
        "reliability": {"score": [0.1, 0.9], "perfect": [0.1, 0.9], "correct": [0.3, 0.8], "detections": [1000, 1]}
        if names
        else {name: [] for name in ("score", "perfect", "correct", "detections")},
        "confusion": {"actual": np.repeat(labels, len(labels)), "predicted": labels * len(labels)}
        | {"count": np.arange(cells), "share": np.arange(cells) / cells},
        "class_ap": {"class": names, "AP": bars, "low": np.full(len(names), np.nan), "high": bars + 0.1},
        "error_costs": {"error": ["missed", "background"], "AP50_cost": [0.25, 0.5]},
    }


def sizes(pictures: list[Path]) -> dict[str, tuple[int, int]]:
    found = {}
    for path in pictures:
        with Image.open(path) as picture:
            found[path.stem] = picture.size
    return found


@pytest.fixture(scope="module")
def five_classes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_plots(make_tables(ODD_NAMES), tmp_path_factory.mktemp("plots"))


def test_pictures_grow_with_the_number_of_classes(five_classes: list[Path], tmp_path: Path) -> None:
    none = sizes(write_plots(make_tables([]), tmp_path / "none"))
    few = sizes(five_classes)
    many = sizes(write_plots(make_tables([f"class {number}" for number in range(48)]), tmp_path / "many"))
    assert list(few) == ["precision_recall", "f1", "reliability", "confusion", "class_ap", "error_costs"]
    assert none.keys() == few.keys() == many.keys()
    assert few["error_costs"] == many["error_costs"]
    # 49 panels of 1.5 inches in seven rows; gaps of 12 % of a panel, 0.2 inches for each title, and margins.
    assert many["precision_recall"] == pytest.approx((7 * 168 + 80, 7 * (168 + 20) + 90), abs=1)
    assert many["class_ap"][1] - few["class_ap"][1] == pytest.approx((48 - 5) * 20, abs=1)
    assert min(many["confusion"]) > 49 * 20


def test_the_same_numbers_give_the_same_bytes(five_classes: list[Path], tmp_path: Path) -> None:
    write_plots(make_tables(ODD_NAMES), tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert len(files) == 8 + 6
    for name in files:
        assert (five_classes[0].parent / name).read_bytes() == (tmp_path / name).read_bytes()
    for path in five_classes:
        with Image.open(path) as picture:
            assert picture.info.keys() <= {"dpi"}  # neither date nor version
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20


def test_tables_are_csv_files(tmp_path: Path) -> None:
    tables = make_tables(["cat, wild", "dog"])
    for name in ("class_ap", "scores"):
        write_table(tables[name], tmp_path / f"{name}.csv")
    assert (tmp_path / "class_ap.csv").read_text() == 'class,AP,low,high\n"cat, wild",0.2,,0.3\ndog,0.8,,0.9\n'
    assert (tmp_path / "scores.csv").read_text().startswith("score,precision,recall,F1\n0,,1,1\n")


PLOTS = [next(iter(plot.values())) for plot in yaml.safe_load((PROJECT / "dvc.yaml").read_text())["plots"]]
EVALUATION_PLOTS = {file: plot for plot in PLOTS for file in plot["y"] if file.startswith("plots/evaluate/")}


@pytest.mark.parametrize("file", EVALUATION_PLOTS)
def test_dvc_draws_columns_of_the_tables(file: str) -> None:
    from dvc_render import VegaRenderer

    plot, table = EVALUATION_PLOTS[file], make_tables(["cat", "dog"])[Path(file).stem]
    fields = plot["y"][file]
    y = fields if isinstance(fields, str) else fields[0]
    points = [dict(zip(table, row, strict=True)) | {"rev": "A"} for row in zip(*table.values(), strict=True)]
    renderer = VegaRenderer(points, file, **plot | {"y": y, "template_dir": str(PROJECT / ".dvc/plots")})
    filled = renderer.get_filled_template()  # an error if a column or the template is missing
    assert "<DVC_METRIC" not in str(filled)
    assert set(fields_of(filled)) <= {*table, "rev"}


def test_every_table_is_drawn() -> None:
    assert {Path(file).stem for file in EVALUATION_PLOTS} == make_tables(["cat"]).keys()


def fields_of(content: Any) -> Iterator[str]:
    """The columns that a Vega-Lite specification names, except those that its data and transforms add."""
    if isinstance(content, dict):
        for key, value in content.items():
            if key == "field" and isinstance(value, str):
                yield value
            elif key not in ("data", "transform"):
                yield from fields_of(value)
    elif isinstance(content, list):
        for value in content:
            yield from fields_of(value)
