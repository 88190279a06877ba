"""Experiments by name, in a small DVC project whose stages copy files."""

import json
import os
import shutil
import signal
import subprocess
import warnings
from pathlib import Path

import pytest
from dvc.api import exp_save
from dvc.repo import Repo
from PIL import Image as Pillow

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.evaluation import inputs, report
from pipeline.files import digest, write_json
from pipeline.integrations import dvc, mlflow_experiments
from pipeline.integrations.experiments import Experiment, open_experiments, open_files
from tests.support.projects import environment

BOX = (10.0, 10.0, 20.0, 20.0)
TRUTH = AnnotationSet((Category(3, "cat"),), (Image(1, "1.png", 60, 50),), (Annotation(1, 1, 3, BOX, 400.0),))
DVC_YAML = """
stages:
  convert:
    cmd: mkdir -p data/unified data/raw/digits && cp made/*.json data/unified/ && cp made/1.png data/raw/digits/
    deps: [made]
    params: [dataset, convert]
    outs: [data/raw/digits, data/unified]
  evaluate:
    cmd: mkdir -p predictions && cp found/*.json predictions/
    deps: [data/unified, found]
    params: [loss, seed]
    outs: [predictions]
"""


# DVC's dependencies use what will be removed.
pytestmark = [pytest.mark.usefixtures("project"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two commits, `first` and HEAD, and the experiment `giou`, which is in the workspace, too."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        enter(folder, patch)
        for split in ("val", "test"):
            annotations.write(TRUTH, folder / f"made/{split}.json")
        Pillow.new("RGB", (60, 50), (200, 40, 90)).save(folder / "made/1.png")
        Path("dvc.yaml").write_text(DVC_YAML)
        git("init", "-q")
        Repo.init(str(folder)).close()
        Path(".gitignore").write_text("/data\n/predictions\n")
        for loss, seed, score in (("iou", 0, 0.5), ("iou", 1, 0.6), ("giou", 1, 0.7)):
            Path("params.yaml").write_text(f"dataset: digits\nloss: {loss}\nseed: {seed}\nconvert: {{classes: null}}\n")
            detect(score)
            with Repo() as repo:
                repo.reproduce()
            if loss == "iou":
                commit(f"seed {seed}")
        git("tag", "first", "HEAD~1")
        exp_save("giou")
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the project, the current folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    enter(tmp_path, monkeypatch)


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        patch.setenv(name, value)
    patch.delenv("DVC_ROOT", raising=False)
    patch.chdir(folder)


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def commit(message: str) -> None:
    git("add", "-A")
    git("commit", "-qm", message)


def detect(score: float) -> None:
    """The same detection in both splits; the threshold that is chosen on val is lower."""
    for split in ("val", "test"):
        results.write([Detection(1, 3, BOX, score)], Path(f"found/{split}.json"))
    chosen = report.evaluate(TRUTH, [Detection(1, 3, BOX, score - 0.25)]).operating_points
    write_json(Path("found/operating_point.json"), chosen.to_json())


def read(*names: str, truth_file: Path | None = None) -> list[Experiment]:
    with open_experiments(names, truth_file=truth_file, split="val", images=None) as found:
        for experiment in found:
            if experiment.find_image:
                assert experiment.find_image("1.png").read_bytes() == Path("made/1.png").read_bytes()
    return found


def test_the_test_split_is_compared_at_the_thresholds_chosen_on_val() -> None:
    with open_experiments(["giou", "first"], truth_file=None, split="test", images=None) as found:
        points = [item.chosen for item in found]
    assert [point.all.score for point in points if point and point.all] == pytest.approx([0.45, 0.25], abs=1e-5)
    assert [experiment.chosen for experiment in read("giou", "first")] == [None, None]


def test_a_project_without_a_test_split(tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as raised:
        inputs.of_experiment((tmp_path / "elsewhere").joinpath, "test")
    file = tmp_path / "elsewhere/data/unified/test.json"
    remedy = "run `dvc repro`, unless the data set has no test split, or give --gt and --dets"
    assert str(raised.value) == f"{file}: not there yet; {remedy}"


def test_experiments_that_have_finished_and_that_wait(capfd: pytest.CaptureFixture[str]) -> None:
    assert dvc.experiment_names() == {"giou"}
    assert dvc.queued_names() == set()
    assert dvc.run_experiment("waiting", ["loss=diou", "seed=7"], "evaluate", queue=True) == 0
    assert "Queued experiment 'waiting' for future execution." in capfd.readouterr().out
    assert dvc.queued_names() == {"waiting"}
    assert dvc.experiment_names() == {"giou"}


def test_dvc_is_stopped_with_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nkill -TERM {os.getpid()}\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr("sys.executable", str(program))
    monkeypatch.setattr(dvc, "_POLL_SECONDS", 0.02)
    with pytest.raises(SystemExit) as stopped:
        dvc.run_experiment("fold", [], "evaluate", queue=False)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert capfd.readouterr().err == "fcos: stopped by SIGTERM; the same command continues\n"
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_stage_is_up_to_date_until_a_dependency_changes() -> None:
    assert dvc.is_up_to_date("convert")
    Path("made/1.png").write_bytes(b"another")
    assert not dvc.is_up_to_date("convert")


def test_the_files_of_one_experiment() -> None:
    with open_files("first") as find:
        assert json.loads(find("predictions/val.json").read_text())[0]["score"] == 0.5
        with pytest.raises(PipelineError) as raised:
            inputs.of_experiment(find, "val", "first")
    assert str(raised.value).startswith("first: ")
    assert "/tmp" not in str(raised.value)
    with (
        pytest.raises(PipelineError, match=r"^nobody: no experiment of DVC"),
        open_files("nobody"),
    ):
        pass


def error(*names: str) -> str:
    with pytest.raises(PipelineError) as raised:
        read(*names)
    return str(raised.value)


def test_experiments_are_read_from_the_cache() -> None:
    names = ("first", "HEAD", "giou", "workspace", "found/val.json")
    shutil.rmtree("data")  # nothing is read from the workspace
    found = read(*names[:3])
    assert [(item.name, item.detections[0].score) for item in found] == [("first", 0.5), ("HEAD", 0.6), ("giou", 0.7)]
    assert [item.params for item in found] == [
        {"dataset": "digits", "convert.classes": None, "loss": loss, "seed": seed}
        for loss, seed in (("iou", 0), ("iou", 1), ("giou", 1))
    ]
    assert {(item.truth, tuple(item.notes)) for item in found} == {(TRUTH, ())}
    with Repo() as repo:
        repo.checkout()
    detect(0.8)
    workspace, file = read(*names[3:])
    assert (workspace.detections[0].score, workspace.params["loss"]) == (0.7, "giou")
    assert (file.detections[0].score, file.params) == (0.8, {})


def test_an_mlflow_run_is_found_by_its_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    by_run = {"in the workspace": digest(Path("predictions/val.json")), "lost": "0" * 64}
    git("stash", "-q")
    with Repo() as repo:
        repo.checkout()
    by_run["committed"] = digest(Path("predictions/val.json"))
    monkeypatch.setattr(mlflow_experiments, "find_predictions", by_run.get)
    committed, experiment = read("committed", "in the workspace")  # the latter now in the experiment alone
    assert (committed.params["loss"], experiment.params["loss"]) == ("iou", "giou")
    assert error("lost", "HEAD").startswith("lost: the predictions of this MLflow run are in no commit")
    assert error("nothing", "HEAD").startswith("nothing: no experiment of DVC, git revision, MLflow run or file")


def test_the_remedy_for_a_collected_cache_works() -> None:
    git("stash", "-q")
    shutil.rmtree(".dvc/cache/files")
    for name, remedy in (("giou", "dvc exp apply giou"), ("first", "git checkout first")):
        message = error(name, "workspace")
        assert message == (
            f"{name}: data/unified/val.json is no longer in DVC's cache: run `{remedy}`, "
            "then `dvc pull` if a remote has it, else `dvc repro evaluate`"
        )
    git("checkout", "-q", "first")
    with Repo() as repo:
        repo.reproduce("evaluate")
    assert read("first")[0].detections[0].score == 0.5


def test_different_ground_truth_is_refused() -> None:
    Path("params.yaml").write_text("dataset: digits\nloss: iou\nseed: 1\nconvert: {classes: [cat]}\n")
    moved = Annotation(1, 1, 3, (11.0, 10.0, 20.0, 20.0), 400.0)
    annotations.write(AnnotationSet(TRUTH.categories, TRUTH.images, (moved,)), Path("made/val.json"))
    with Repo() as repo:
        repo.reproduce()
    assert error("HEAD", "workspace") == (
        "workspace was not evaluated on the ground truth of HEAD: image 1 (1.png) has other annotations; "
        "they differ in convert.classes"
    )


def test_results_that_are_out_of_date_are_named() -> None:
    Path("made/note.json").write_text(json.dumps({}))
    with Repo() as repo:
        repo.reproduce("convert")
    (experiment,) = read("workspace")
    assert experiment.notes == [
        "evaluate ran before data/unified changed; run `dvc repro` to bring its result up to date"
    ]


def test_commits_without_results() -> None:
    git("checkout", "-q", "--orphan", "empty")
    git("rm", "-rfq", "dvc.lock")
    commit("empty")
    assert error("HEAD", "giou") == "HEAD: no dvc.lock at this revision; run `dvc repro` and commit"
    Path("dvc.lock").unlink(missing_ok=True)
    assert error("workspace", "giou") == "workspace: dvc.lock: not there; run `dvc repro`"
