"""The whole pipeline as users run it: real `dvc` commands on a very small `digits`, in a clone of this project.

The tests share one project, in which every stage has run, and depend on their order.
"""

import json
import re
import shutil
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import mlflow
import pytest
import yaml
from PIL import Image

from pipeline import recipes
from pipeline.evaluation import resampling
from pipeline.yaml_files import read_yaml
from tests.support.projects import read, readme, run, stages_run
from tests.support.scored_scenes import COCO_METRICS


def mlflow_client(project: Path) -> mlflow.MlflowClient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # raised by MLflow, about SQLAlchemy
        return mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")


def mlflow_runs(project: Path) -> list[mlflow.entities.Run]:
    client = mlflow_client(project)
    experiment = client.get_experiment_by_name("fcos")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))


def test_every_documented_file_exists(project: Path) -> None:
    for name in (
        "data/raw/digits",
        "data/unified/train.json",
        "data/unified/report.json",
        "models/detector.safetensors",
        "models/detector.json",
        "plots/loss.csv",
        "plots/loss.png",
        "plots/evaluate/confusion.csv",
        "plots/evaluate/confusion.png",
        "predictions/val.json",
        "predictions/embeddings_val.npz",
        "predictions/operating_point.json",
        "reports/embeddings.npz",
        "reports/embeddings.png",
        "reports/embeddings.html",
        "reports/failures",
        "reports/inspection.html",
        "reports/model_card.md",
        "metrics/inspect.json",
        "metrics/test.json",
    ):
        assert (project / name).exists(), name
    scores = read(project, "metrics/evaluate.json")
    assert list(scores["coco"]) == COCO_METRICS
    assert {"mAP50_11point", "mAP50_area"} <= set(scores["voc"])
    assert list(scores["per_class"]) == [str(digit) for digit in range(10)]
    assert read(project, "metrics/train.json")["steps"] == 2 * 24 // 8


def test_git_sees_only_the_lock_and_metrics(project: Path) -> None:
    status = run(project, "git", "status", "--short").splitlines()
    assert {line.split()[-1] for line in status} <= {"dvc.lock", "metrics/"}, status


def test_a_second_repro_runs_no_stage(project: Path) -> None:
    assert stages_run(run(project, "dvc", "repro")) == set()
    (project / "README.md").write_text("changed\n")
    assert stages_run(run(project, "dvc", "repro")) == set()


def test_one_mlflow_run_holds_the_experiment(project: Path) -> None:
    (only_run,) = mlflow_runs(project)
    assert only_run.info.status == "FINISHED"
    assert only_run.data.params["train.lr"] == "0.01"
    assert only_run.data.params["evaluate.test"] == "True"
    assert {"coco/AP50", "per_class/AP/0", "train/total", "val/AP"} <= set(only_run.data.metrics)
    (unified,) = read_yaml(project / "dvc.lock")["stages"]["convert"]["outs"]
    datasets = {item.dataset.name: item.dataset.digest for item in only_run.inputs.dataset_inputs}
    assert datasets == {"digits/train": unified["md5"], "digits/val": unified["md5"]}
    epochs = {item.path.split("+")[2] for item in mlflow_client(project).list_artifacts(only_run.info.run_id, "images")}
    assert epochs == {"1", "2"}
    commit = run(project, "git", "rev-parse", "HEAD").strip()
    assert only_run.data.tags["git_revision"] == commit
    assert only_run.data.tags["git_dirty"] == "false"


def test_readmes_commands_to_look_at_results(project: Path) -> None:
    ui, app, predict, export, suggest, evaluate = readme("Look")
    assert export == ["fcos", "export"]  # tests/pipeline/export runs it
    assert (ui, app) == (["make", "ui"], ["make", "app"])  # tests/pipeline/integrations runs their commands
    shutil.copytree(project / "data/raw/digits/images/val", project / "folder")
    (project / "folder/000001.jpg").rename(project / "photo.jpg")
    run(project, *predict, "--score", "0.01")
    assert sorted(path.name for path in (project / "seen").glob("*.jpg")) == [
        *(f"00000{number}.jpg" for number in range(2, 9)),
        "photo.jpg",
    ]
    records = json.loads((project / "seen/detections.json").read_text())
    assert [record["width"] for record in records] == [128] * 8
    with Image.open(project / "photo.jpg") as photo:  # other bytes than those of the data set
        photo.save(project / "folder/new.jpg", quality=70)
    assert run(project, *suggest).splitlines()[0] == "folder/new.jpg"
    shutil.copy(project / "data/unified/val.json", project / "truth.json")
    shutil.copy(project / "predictions/val.json", project / "detections.json")
    ap = read(project, "metrics/evaluate.json")["coco"]["AP"]
    expected = f"Average Precision  (AP) @[ IoU=0.50:0.95 | area=   all | maxDets=100 ] = {ap:.3f}"
    assert expected in run(project, *evaluate)


def test_predictions_as_json(project: Path) -> None:
    installed = str(Path(sys.executable).with_name("fcos"))  # as a process, with the installed entry point
    printed = run(project, installed, "predict", "photo.jpg", "--json", "--score", "0")
    (record,) = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert record["file"] == "photo.jpg"
    assert len(record["detections"]) == 100
    assert not (project / "predicted").exists()


def test_readmes_commands_to_choose_a_detector(project: Path) -> None:
    listing, recipe, summary, explain = readme("Choose a detector")
    assert "paper_r50_improved\n" in run(project, *listing)
    run(project, *recipe)
    assert (project / "lite0.yaml").read_text() == recipes.find("cpu_lite0").text
    assert "backbone C5" in run(project, *summary)
    assert "pictures and explained.json in explained" in run(project, *explain)
    assert {path.name for path in (project / "explained").iterdir()} == {
        "000001-centers.jpg",
        "000001-heat.jpg",
        "explained.json",
    }


def test_readmes_experiments_can_be_compared(project: Path) -> None:
    run(project, "git", "checkout", "-q", "params.yaml", "README.md")
    (first,) = mlflow_runs(project)
    for command in readme("Experiment"):
        if "&&" in command:
            split = command.index("&&")
            run(project, *command[:split])
            command = command[split + 1 :]
        printed = run(project, *command, *(["--csv"] if "--keep" in command else []))
        if command == ["dvc", "metrics", "diff"]:
            assert "coco.AP50" in printed
        if command == ["dvc", "plots", "diff"]:
            plots = rows_by_revision((project / "dvc_plots/index.html").read_text())
            assert len(plots) == len(yaml.safe_load((project / "dvc.yaml").read_text())["plots"])
            assert all(set(rows) == {"HEAD", "workspace"} for rows in plots.values()), plots
            # Both have as many steps and epochs. Curves over the score depend on the detections.
            for name in ("Losses", "Gradient_norm", "Learning_rate", "Validation", "Precision_and_recall"):
                assert plots[name]["HEAD"] == plots[name]["workspace"], plots
            assert "warning" not in printed.lower(), printed
        if command == ["dvc", "queue", "status"]:
            wait_for_experiments(project, 3)
        if command == ["dvc", "exp", "show"]:
            table = printed
        if "--keep" in command:
            columns = printed.splitlines()[0].split(",")
            assert sorted(columns) == ["Experiment", "coco.AP", "coco.AP50", "images_per_second", "loss", "seed"]
    new = [experiment for experiment in mlflow_runs(project) if experiment.info.run_id != first.info.run_id]
    assert [experiment.info.status for experiment in new] == ["FINISHED"] * 3
    changed = ("loss", "train.lr", "postprocess.nms")
    values = {experiment.info.run_id: [experiment.data.params[name] for name in changed] for experiment in new}
    evaluated = ["iou", "0.01", "soft_gaussian"]
    assert sorted(values.values()) == [["giou", "0.01", "hard"], ["iou", "0.001", "hard"], evaluated]
    for experiment in new:
        assert experiment.data.tags["dvc_experiment"] in table
        assert "coco/AP50" in experiment.data.metrics
        # Artifacts lie in the project, not in the temporary workspaces, which DVC removes.
        artifacts = Path(experiment.info.artifact_uri.removeprefix("file://"))
        assert artifacts.is_relative_to(project)
        # The detector of a changed evaluation is that of the first run, which it names.
        trained = values[experiment.info.run_id] != evaluated
        assert experiment.data.tags.get("trained_by") == (None if trained else first.info.run_id)
        assert bool(experiment.outputs.model_outputs) == trained


def test_from_a_question_to_a_detector_that_others_can_use(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/experiments.md with two experiments instead of twelve: one comes from DVC's cache, and one trains."""
    monkeypatch.setattr(resampling, "DRAWS", 50)
    for command in (("checkout", "-q", "HEAD", "."), ("reset", "-q", "--soft", "HEAD~1")):  # as after `make repro`
        run(project, "git", *command)
    names = {"loss=iou,giou,diou,ciou": "loss=giou", "seed=0,1,2": "seed=0,1", "box-4": "box-1", "box-5": "box-2"}
    places = {"/srv/dvc": str(tmp_path / "storage"), "git@example.org:me/project.git": str(tmp_path / "origin.git")}
    for command in (("init", "-q", "--bare", str(tmp_path / "origin.git")), ("remote", "add", "origin", "ORIGIN")):
        run(project, "git", *(word.replace("ORIGIN", str(tmp_path / "origin.git")) for word in command))

    def steps(section: str) -> Iterator[list[str]]:
        """The commands of a section, those before and after `&&` apart."""
        for line in readme(section, "docs/experiments.md"):
            words = [(names | places).get(word, word) for word in line]
            for is_separator, command in groupby(words, "&&".__eq__):
                if not is_separator:
                    yield list(command)

    table = [run(project, *command) for command in steps("Try")][-1]
    assert set(re.findall(r"box-\d", table)) == {"box-1", "box-2"}
    seeds = run(project, "fcos", "compare", "box-1", "box-2")
    for command in steps("Promote"):
        run(project, *command)
    assert "loss: giou" in (project / "params.yaml").read_text()
    assert stages_run(run(project, "dvc", "repro")) == set()
    here = project
    for command in steps("Share"):
        if command[0] == "cd":
            here = tmp_path / command[1]
        else:
            output = run(tmp_path if command[:2] == ["git", "clone"] else here, *command)
    assert output.splitlines()[1:] == seeds.splitlines()[1:]
    for file in ("models/detector.safetensors", "predictions/val.json"):
        assert (here / file).read_bytes() == (project / file).read_bytes()
    evaluated = json.loads(run(here, "fcos", "evaluate", "box-2", "--json"))
    ap = evaluated["coco"]["AP"]
    assert evaluated["protocol"]["detections"].startswith("box-2: predictions/val.json: ")
    assert re.search(rf"^ AP +\S+ +{ap:.3f} ", output, re.MULTILINE), (ap, output)
    assert stages_run(run(here, "dvc", "repro")) == set()
    for command in steps("Clean up"):
        run(project, *command)
    assert run(project, "dvc", "exp", "list", "--all-commits", "--name-only").split() == ["box-2"]
    assert run(project, "fcos", "compare", "HEAD", "box-2") == output


def rows_by_revision(page: str) -> dict[str, Counter[str]]:
    """The rows of each revision in each plot of the page of `dvc plots diff`."""
    plots = re.findall(r'(?s)<div id = "(\w+)">.*?var spec = (.*?);\n', page)
    return {name: Counter(re.findall(r'"rev": "(\w+)"', spec)) for name, spec in plots}


def wait_for_experiments(project: Path, count: int) -> None:
    """Waits until so many experiments have succeeded. `dvc queue status` in a loop would occupy a core."""
    deadline = time.monotonic() + 300
    while len(list((project / ".git/refs/exps").glob("??/*/*"))) < count:
        assert time.monotonic() < deadline, run(project, "dvc", "queue", "status")
        time.sleep(0.5)
