"""The MLflow run that made the result of a DVC experiment, which DVC may have restored from its cache."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.integrations import mlflow, mlflow_experiments
from pipeline.integrations.mlflow_datasets import dvc_hash
from pipeline.params import Params
from pipeline.yaml_files import read_yaml

LOCK = """schema: '2.0'
stages:
  train:
    cmd: exec python -m pipeline.stages.train
    outs:
    - path: models
      md5: {models}.dir
  evaluate:
    cmd: exec python -m pipeline.stages.evaluate
    outs:
    - path: predictions
      md5: {predictions}.dir
"""


class Runs:
    """A store whose runs are found by one tag."""

    def __init__(self, **tags: str) -> None:
        self.tags = tags

    def find_run(self, tags: dict[str, str]) -> str | None:
        ((name, value),) = tags.items()
        return f"run of {name}" if self.tags.get(name) == value else None


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a commit, a later dvc.lock in the workspace, and three experiments, two of one name."""
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "dvc.lock").write_text(LOCK.format(models="a", predictions="b"))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "start")
    for number, name in enumerate(("restored", "twice", "twice")):
        git(tmp_path, "update-ref", f"refs/exps/0{number}/1234/{name}", "HEAD")
    (tmp_path / "dvc.lock").write_text(LOCK.format(models="a", predictions="c"))
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def find(name: str, **tags: str) -> str:
    store: Any = Runs(**tags)
    return mlflow_experiments.find_run(store, name)


@pytest.mark.usefixtures("repository")
def test_a_run_is_found_by_the_hashes_in_dvc_lock() -> None:
    both = {"dvc_predictions": "b.dir", "dvc_models": "a.dir"}
    for name in ("restored", "main", "HEAD"):
        assert find(name, **both) == "run of dvc_predictions"
    assert find("workspace", **both) == "run of dvc_models"  # evaluated otherwise, but trained by the same run


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("twice", "twice: several experiments have this name: give the commit of one, see `dvc exp show`"),
        ("none", "none: no experiment and no git revision has this name; see `dvc exp list --all-commits`"),
        ("--all", "--all: no experiment and no git revision has this name; see `dvc exp list --all-commits`"),
        ("main", "main: MLflow has no run that made its models or predictions: `fcos sync` sends what waits"),
    ],
)
def test_what_has_no_run_is_one_line(name: str, message: str) -> None:
    with pytest.raises(PipelineError) as caught:
        find(name)
    assert str(caught.value) == message


def test_the_hash_of_a_folder_is_dvc_s(project: Path) -> None:
    lock = read_yaml(project / "dvc.lock")
    outputs = {item["path"]: item["md5"] for stage in lock["stages"].values() for item in stage["outs"]}
    for folder in ("data/unified", "models", "predictions", "data/raw/digits"):
        assert dvc_hash(project / folder) == outputs[folder]


@pytest.mark.usefixtures("inspected")
def test_predictions_are_found_by_the_name_or_id_of_a_run(values: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "o'brien's"
    monkeypatch.setenv("DVC_EXP_NAME", name)
    with mlflow.evaluate_run(values, "a" * 64):
        pass
    store = mlflow.Store.open()
    (run,) = store.client.search_runs([store.experiment])
    with pytest.raises(PipelineError, match="this MLflow run has not been evaluated"):
        mlflow_experiments.find_predictions(run.info.run_id)
    with mlflow.evaluate_run(values, "a" * 64) as evaluated:
        evaluated.mark_finished("b" * 64)
    assert [mlflow_experiments.find_predictions(key) for key in (name, evaluated.id, "x")] == ["b" * 64, "b" * 64, None]
    with mlflow.evaluate_run(values, "c" * 64):
        pass
    with pytest.raises(PipelineError, match="2 MLflow runs have this name"):
        mlflow_experiments.find_predictions(name)
