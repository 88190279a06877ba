import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import params, recipes
from pipeline.errors import PipelineError
from tests.support.paths import PROJECT


def edit_params(home: Path, old: str, new: str) -> Path:
    path = home / "params.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.usefixtures("home")
def test_the_file_of_the_project_is_valid() -> None:
    values = params.load()
    assert (values.dataset, values.seed, values.train.size) == ("digits", 0, (256, 256))
    assert values.flat()["download.digits.size"] == 256
    assert values.flat()["train.size"] == [256, 256]


@pytest.mark.parametrize(("written", "value"), [("1e-05", 1e-5), ("1e-5", 1e-5), ("2", 2.0), ("0.5e-1", 0.05)])
def test_numbers_are_read_as_dvc_reads_them(home: Path, written: str, value: float) -> None:
    lr = params.load(edit_params(home, "lr: 0.01", f"lr: {written}")).train.lr
    assert lr == value
    assert isinstance(lr, float)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  lr: 0.01", "  lrr: 0.01", "train.lrr is unknown; known ones: .*momentum"),
        ("  epochs: 11", "  # epochs: 10", "train.epochs is missing"),
        ("  epochs: 11", "  epochs: '8'", "train.epochs is '8', but should be a valid integer"),
        ("  epochs: 11", "  epochs: 8.0", "train.epochs is 8.0, but should be a valid integer"),
        ("  epochs: 11", "  epochs: 0", "train.epochs is 0, but should be greater than or equal to 1"),
        (
            "  include_difficult: false",
            "  include_difficult: off",
            "train.include_difficult is 'off', but should be a valid boolean",
        ),
        ("  issues: error", "  issues: ignore", "convert.issues is 'ignore', but should be 'error' or 'repair'"),
        ("val_fraction: 0.2", "val_fraction: 1", "convert.val_fraction is 1, but should be less than 1"),
        ("  size: [256, 256]", "  size: [512, 256]", "train: size: the shorter side comes first"),
        ("  path: data/custom", "  path: ../data", "download: path: .* leaves the project, so it must be absolute"),
        ("\nseed: 0", "\nseed: -1", "seed is -1, but should be greater than or equal to 0"),
        ("\nseed: 0", "\nseed: [0", "not YAML: .* at line"),
        (
            "  classes: null # class",
            "  classes: {v: car} # class",
            "convert.classes.v is 'car', but should be a valid array",
        ),
        (
            "  classes: null # class",
            "  classes: [a, 3] # class",
            "convert.classes.2 is 3, but should be a valid string",
        ),
        (
            "  classes: null # class",
            "  classes: [] # class",
            r"convert.classes is \[\], but should have at least 1 value",
        ),
        ("dataset: digits", "dataset: 7", "dataset is 7, but should be a valid string"),
    ],
)
def test_invalid_values_give_one_line(home: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        params.load(edit_params(home, old, new))
    assert "\n" not in str(caught.value)


def test_only_a_step_schedule_needs_steps(home: Path) -> None:
    edit_params(home, "  steps: [0.67, 0.89]", "  steps: []")
    assert params.load().train.steps == ()
    edit_params(home, "  schedule: one_cycle", "  schedule: step")
    with pytest.raises(PipelineError, match="train: steps: step needs at least one"):
        params.load()


def test_tiles_exclude_the_cache(home: Path) -> None:
    edit_params(home, "  cache: false", "  cache: true")
    assert params.load().machine.cache
    edit_params(home, "  tiles: null # also train", "  tiles: [640, 0.2] # also train")
    with pytest.raises(PipelineError, match=r"machine\.cache: .*; set it to false, or train\.tiles to null"):
        params.load()


def test_every_renamed_parameter_exists() -> None:
    known = recipes.defaults().flat()
    assert set(params.RENAMED.values()) <= known.keys()
    assert not set(params.RENAMED) & known.keys()


def test_the_file_of_the_project_has_the_defaults() -> None:
    assert (PROJECT / "params.yaml").read_text() == recipes.DEFAULTS.read_text()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no such file"):
        params.load(tmp_path / "params.yaml")


def test_a_stage_reports_the_error_in_one_line(
    home: Path, stage: Callable[[str], subprocess.CompletedProcess[str]]
) -> None:
    edit_params(home, "\nseed: 0", "\nsed: 0")
    result = stage("convert")
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "sed is unknown" in result.stderr
