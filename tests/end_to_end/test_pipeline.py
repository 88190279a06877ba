"""The whole pipeline as people run it: real `dvc` commands on a very small `digits`, in a clone of this project.

The tests share one project and build on each other, in order.
"""

import json
import shutil
import time
import warnings
from pathlib import Path

import mlflow

from pipeline import recipes
from tests.support.projects import read, readme, run, stages_run


def mlflow_runs(project: Path) -> list[mlflow.entities.Run]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own, of SQLAlchemy
        client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("fcos")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def test_every_promised_file_is_there(project: Path) -> None:
    for name in (
        "data/raw/digits",
        "data/unified/train.json",
        "data/unified/report.json",
        "models/detector.safetensors",
        "models/detector.json",
        "plots/loss.csv",
        "plots/loss.png",
        "predictions/val.json",
        "reports/failures",
        "metrics/inspect.json",
    ):
        assert (project / name).exists(), name
    scores = read(project, "metrics/evaluate.json")
    assert list(scores["coco"]) == [
        "AP",
        "AP50",
        "AP75",
        "APs",
        "APm",
        "APl",
        "AR1",
        "AR10",
        "AR100",
        "ARs",
        "ARm",
        "ARl",
    ]
    assert {"mAP50_11point", "mAP50_area"} <= set(scores["voc"])
    assert list(scores["per_class"]) == [str(digit) for digit in range(10)]
    assert read(project, "metrics/train.json")["steps"] == 2 * 24 // 8


def test_nothing_is_left_for_git_but_what_belongs_there(project: Path) -> None:
    status = run(project, "git", "status", "--short").splitlines()
    assert {line.split()[-1] for line in status} <= {"dvc.lock", "metrics/"}, status


def test_a_second_run_runs_nothing(project: Path) -> None:
    assert stages_run(run(project, "dvc", "repro")) == set()
    (project / "README.md").write_text("changed\n")
    assert stages_run(run(project, "dvc", "repro")) == set()


def test_one_mlflow_run_holds_the_experiment(project: Path) -> None:
    (only,) = mlflow_runs(project)
    assert only.info.status == "FINISHED"
    assert only.data.params["train.lr"] == "0.002"
    assert only.data.params["evaluate.split"] == "val"
    assert {"coco/AP50", "train/total", "val/AP"} <= set(only.data.metrics)
    commit = run(project, "git", "rev-parse", "HEAD").strip()
    assert only.data.tags["git_revision"] == commit
    assert only.data.tags["git_dirty"] == "false"


def test_readmes_commands_to_look(project: Path) -> None:
    ui, app, predict, evaluate = readme("Look")
    assert (ui, app) == (["make", "ui"], ["make", "app"])  # tests/pipeline/looking/ runs what these run
    shutil.copytree(project / "data/raw/digits/images/val", project / "folder")
    (project / "folder/000001.jpg").rename(project / "photo.jpg")
    run(project, *predict, "--score", "0.01")
    assert sorted(path.name for path in (project / "seen").glob("*.jpg")) == [
        *(f"00000{number}.jpg" for number in range(2, 9)),
        "photo.jpg",
    ]
    records = json.loads((project / "seen/detections.json").read_text())
    assert [record["width"] for record in records] == [128] * 8
    shutil.copy(project / "data/unified/val.json", project / "truth.json")
    shutil.copy(project / "predictions/val.json", project / "detections.json")
    ap = read(project, "metrics/evaluate.json")["coco"]["AP"]
    expected = f"Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = {ap:.3f}"
    assert expected in run(project, *evaluate)


def test_predictions_as_json(project: Path) -> None:
    printed = run(project, "fcos", "predict", "photo.jpg", "--json", "--score", "0")
    (record,) = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert record["file"] == "photo.jpg"
    assert len(record["detections"]) == 100
    assert not (project / "predicted").exists()


def test_readmes_commands_to_choose_a_detector(project: Path) -> None:
    listing, writing, summing, explaining = readme("Choose a detector")
    assert "paper_r50_improved\n" in run(project, *listing)
    run(project, *writing)
    assert (project / "lite0.yaml").read_text() == recipes.find("cpu_lite0").text
    assert "backbone C5" in run(project, *summing)
    assert "pictures and explained.json in explained" in run(project, *explaining)
    assert {path.name for path in (project / "explained").iterdir()} == {
        "000001-centers.jpg",
        "000001-heat.jpg",
        "explained.json",
    }


def test_a_changed_evaluation_does_not_train_again(project: Path) -> None:
    """And its numbers go into a run of their own, which names the one that trained."""
    output = run(project, "dvc", "exp", "run", "-S", "postprocess.max_detections=50")
    assert stages_run(output) == {"evaluate", "inspect"}
    first, second = mlflow_runs(project)
    assert second.data.tags["trained_by"] == first.info.run_id
    assert second.data.params["postprocess.max_detections"] == "50"
    assert first.data.params["postprocess.max_detections"] == "100"


def test_readmes_experiments_stand_beside_each_other(project: Path) -> None:
    run(project, "git", "checkout", "-q", "params.yaml", "README.md")
    known = {one.info.run_id for one in mlflow_runs(project)}
    for command in readme("Experiment"):
        if "&&" in command:
            split = command.index("&&")
            run(project, *command[:split])
            command = command[split + 1 :]
        printed = run(project, *command)
        if command == ["dvc", "metrics", "diff"]:
            assert "coco.AP50" in printed
        if command == ["dvc", "queue", "status"]:
            wait_for_experiments(project, 4)  # these three, and the one of the test before
        if command == ["dvc", "exp", "show"]:
            table = printed
    made = [one for one in mlflow_runs(project) if one.info.run_id not in known]
    assert [one.info.status for one in made] == ["FINISHED"] * 3
    changed = [[one.data.params[name] for name in ("loss", "train.lr", "model.tower_depth")] for one in made]
    assert sorted(changed) == [["giou", "0.002", "2"], ["iou", "0.001", "2"], ["iou", "0.002", "4"]]
    for one in made:
        name = one.data.tags["dvc_experiment"]
        assert name in table
        assert "coco/AP50" in one.data.metrics
        # What outlives the temporary workspaces lies in the project.
        artifacts = Path(one.info.artifact_uri.removeprefix("file://"))
        assert artifacts.is_relative_to(project)
        assert (artifacts / "detector.safetensors").is_file()


def wait_for_experiments(project: Path, count: int) -> None:
    """Until so many have ended well. `dvc queue status` in a loop would take a core from them."""
    deadline = time.monotonic() + 300
    while len(run(project, "git", "for-each-ref", "refs/exps/??/*/*").splitlines()) < count:
        assert time.monotonic() < deadline, run(project, "dvc", "queue", "status")
        time.sleep(0.5)
