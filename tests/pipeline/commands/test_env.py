"""`fcos env` and `fcos --version`: what a bug report needs, and no secrets."""

import json
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import main
from pipeline.commands.env import HIDDEN, hide
from tests.support.paths import PROJECT


@pytest.fixture(autouse=True)
def project_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the two files that make a workspace, and no git repository."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text((PROJECT / name).read_text())
    return tmp_path


def report() -> dict[str, dict[str, str]]:
    result = CliRunner().invoke(main, ["env", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    sections = json.loads(result.output)
    assert isinstance(sections, dict)
    return sections


def test_version_is_that_of_pyproject() -> None:
    version = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert CliRunner().invoke(main, ["--version"]).output == f"fcos, version {version}\n"
    assert report()["project"]["version"] == version


def test_report_has_what_a_bug_report_needs(project_folder: Path) -> None:
    sections = report()
    assert list(sections) == ["project", "machine", "gpu", "packages", "environment", "parameters"]
    assert sections["project"]["workspace"] == str(project_folder)
    assert sections["project"]["git revision"] == "none"
    assert {"mongod", "free disk space"} <= sections["project"].keys()
    assert {"operating system", "Python", "CPU", "CPU cores", "memory"} <= sections["machine"].keys()
    for package in ("torch", "torchvision", "dvc", "mlflow", "fiftyone", "pycocotools"):
        assert sections["packages"][package] != "not installed"
    assert all(isinstance(value, str) for values in sections.values() for value in values.values())


def test_page_has_the_same_as_json() -> None:
    page = CliRunner().invoke(main, ["env"], catch_exceptions=False).output
    for name, value in report()["packages"].items():
        assert any(line.split() == [name, *value.split()] for line in page.splitlines()), name
    assert "Parameters that differ from the defaults\n  none\n" in page


def test_changed_parameters_are_shown_beside_their_defaults(project_folder: Path) -> None:
    path = project_folder / "params.yaml"
    path.write_text(path.read_text().replace("  epochs: 11", "  epochs: 3"))
    assert report()["parameters"] == {"train.epochs": "3 (default: 11)"}


def test_broken_parameters_are_part_of_the_report(project_folder: Path) -> None:
    (project_folder / "params.yaml").write_text("dataset: digits\nlose: iou\n")
    (problem,) = report()["parameters"].values()
    assert "lose is unknown" in problem


def test_report_outside_a_project(project_folder: Path) -> None:
    (project_folder / "dvc.yaml").unlink()
    sections = report()
    assert "no dvc.yaml" in sections["project"]["main repository"]
    assert "no dvc.yaml" in sections["parameters"]["params.yaml"]


def test_environment_shows_relevant_variables_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hunter2@example.org/mlflow?sig=hunter2")
    monkeypatch.setenv("MY_DIARY", "hunter2")
    result = CliRunner().invoke(main, ["env", "--json"], catch_exceptions=False)
    assert "hunter2" not in result.output
    shown = json.loads(result.output)["environment"]
    assert shown["OMP_NUM_THREADS"] == "3"
    assert shown["MLFLOW_TRACKING_PASSWORD"] == HIDDEN
    assert shown["MLFLOW_TRACKING_URI"] == f"https://{HIDDEN}@example.org/mlflow?{HIDDEN}"
    assert "MY_DIARY" not in shown


def test_parameters_show_no_credentials(project_folder: Path) -> None:
    path = project_folder / "params.yaml"
    path.write_text(path.read_text().replace("  mirror: null", "  mirror: https://me:hunter2@example.org/data"))
    assert report()["parameters"] == {"download.mirror": f'"https://{HIDDEN}@example.org/data" (default: null)'}


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("HF_TOKEN", "abc", HIDDEN),
        ("wandb_api_key", "abc", HIDDEN),
        ("CUDA_VISIBLE_DEVICES", "0,1", "0,1"),
        ("HTTP_PROXY", "me:secret@proxy:8080", f"{HIDDEN}@proxy:8080"),
        ("HTTP_PROXY", "http://me:a/b@proxy:8080", f"http://{HIDDEN}@proxy:8080"),
        ("LD_LIBRARY_PATH", "/usr/lib:/opt/lib@2", "/usr/lib:/opt/lib@2"),
        ("FIFTYONE_DATABASE_URI", "mongodb://localhost/?a=b", f"mongodb://localhost/?{HIDDEN}"),
        ("TORCH_HOME", str(Path.home() / "cache"), "~/cache"),
    ],
)
def test_hide(name: str, value: str, shown: str) -> None:
    assert hide(name, value) == shown
