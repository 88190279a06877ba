"""The whole pipeline as people run it: real `dvc` commands on a very small `digits`, in a clone of this project.

The tests share one project and build on each other, in order.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
import torch
from torchvision.models.detection import fcos_resnet50_fpn

REPOSITORY = Path(__file__).resolve().parents[1]
SMALL = {
    "    train: 1000": "    train: 24",
    "    val: 200": "    val: 8",
    "    size: 256": "    size: 128",
    "  size: [256, 256]": "  size: [128, 128]",
    "  epochs: 8": "  epochs: 2",
    "  checkpoint_every: 60": "  checkpoint_every: 0",
    "  worst: 24": "  worst: 4",
}


def run(project: Path, *command: str, check: bool = True) -> str:
    """Runs a command there as a person would, and gives back all it printed."""
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True, timeout=570)
    output = done.stdout + done.stderr
    if check:
        assert done.returncode == 0, f"{command}: exit {done.returncode}\n{output}"
    return output


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")}
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GIT_AUTHOR_NAME": "test",
        "GIT_AUTHOR_EMAIL": "test@example.org",
        "GIT_COMMITTER_NAME": "test",
        "GIT_COMMITTER_EMAIL": "test@example.org",
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows, with very small parameters, committed, and `dvc repro` run once."""
    folder = tmp_path_factory.mktemp("project")
    listed = run(REPOSITORY, "git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in listed:
        made = name == "dvc.lock" or name.startswith("metrics/")  # by a `make repro` here, and staged by DVC
        if not made and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    text = (folder / "params.yaml").read_text()
    for line, small in SMALL.items():
        assert line in text, line
        text = text.replace(line, small)
    (folder / "params.yaml").write_text(text)
    for command in (("init", "-q"), ("add", "-A"), ("commit", "-qm", "start")):
        run(folder, "git", *command)
    # `dvc exp run --queue` asks git's own configuration for a name.
    run(folder, "git", "config", "user.name", "test")
    run(folder, "git", "config", "user.email", "test@example.org")
    run(folder, "dvc", "repro")
    return folder


def readme(section: str, file: str = "README.md") -> list[list[str]]:
    """The commands of a section of README, as README has them; or of another document."""
    text = (REPOSITORY / file).read_text().split(f"# {section}\n")[1].split("\n## ")[0]
    return [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("    ")]


def read(project: Path, name: str) -> dict:  # type: ignore[type-arg]
    found = json.loads((project / name).read_text())
    assert isinstance(found, dict)
    return found


def stages_run(output: str) -> set[str]:
    return set(re.findall(r"Running stage '(\w+)'", output))


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
    assert (project / "lite0.yaml").read_text() == (REPOSITORY / "pipeline/recipes/cpu_lite0.yaml").read_text()
    assert "backbone C5" in run(project, *summing)
    assert "pictures and explained.json in explained" in run(project, *explaining)
    assert {path.name for path in (project / "explained").iterdir()} == {
        "000001-centres.jpg",
        "000001-heat.jpg",
        "explained.json",
    }


def test_a_changed_evaluation_does_not_train_again(project: Path) -> None:
    """And its numbers go into a run of their own, which names the one that trained."""
    output = run(project, "dvc", "exp", "run", "-S", "evaluate.max_detections=50")
    assert stages_run(output) == {"evaluate", "inspect"}
    first, second = mlflow_runs(project)
    assert second.data.tags["trained_by"] == first.info.run_id
    assert second.data.params["evaluate.max_detections"] == "50"
    assert first.data.params["evaluate.max_detections"] == "100"


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
            deadline = time.monotonic() + 400
            while re.search(r"Running|Queued", run(project, "dvc", "queue", "status")):
                assert time.monotonic() < deadline
                time.sleep(2)
        if command == ["dvc", "exp", "show"]:
            table = printed
    made = [one for one in mlflow_runs(project) if one.info.run_id not in known]
    assert [one.info.status for one in made] == ["FINISHED"] * 4
    changed = [(one.data.params["loss"], one.data.params["train.lr"], one.data.params["train.ema"]) for one in made]
    assert sorted(changed) == [
        ("giou", "0.002", "0.99"),
        ("iou", "0.001", "0.99"),
        ("iou", "0.002", "0.0"),
        ("iou", "0.002", "0.99"),
    ]
    assert sorted(one.data.params["model.tower_depth"] for one in made) == ["2", "2", "2", "4"]
    for one in made:
        name = one.data.tags["dvc_experiment"]
        assert name in table
        assert "coco/AP50" in one.data.metrics
        # What outlives the temporary workspaces lies in the project.
        artifacts = Path(one.info.artifact_uri.removeprefix("file://"))
        assert artifacts.is_relative_to(project)
        assert (artifacts / "detector.safetensors").is_file()


def test_readmes_own_data(project: Path, tmp_path: Path) -> None:
    """An archive outside the project, in COCO layout; a change in it is noticed."""
    run(project, "git", "checkout", "-q", "params.yaml")
    archive = tmp_path / "mine.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", project / "data/raw/digits")
    (command,) = readme("Your own data")
    command = [word.replace("/data/mine.zip", str(archive)) for word in command]
    assert stages_run(run(project, *command)) == {"download", "convert", "train", "evaluate", "inspect"}
    assert read(project, "models/detector.json")["size"] == [480, 640]
    assert stages_run(run(project, "dvc", "repro")) == set()
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("note.txt", "new")
    assert "download" in stages_run(run(project, "dvc", "repro", "download"))


def test_the_commands_of_docs_on_recipes(project: Path, tmp_path: Path) -> None:
    """Up to the training, which would take an hour."""
    run(project, "git", "checkout", "-q", "params.yaml")
    listing, writing, elsewhere = readme("Recipes", "docs/recipes.md")
    for command in (listing, writing, elsewhere):
        run(project, *command)
    assert (project / "params.yaml").read_text() == (REPOSITORY / "pipeline/recipes/cpu_lite0.yaml").read_text()
    assert (project / "best.yaml").read_text() == (REPOSITORY / "pipeline/recipes/best_r50.yaml").read_text()
    again, training = readme("Before it runs", "docs/recipes.md")
    run(project, *again)
    archive = tmp_path / "mine.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", project / "data/raw/digits")
    training = [word.replace("/data/mine.zip", str(archive)) for word in training]
    assert stages_run(run(project, *training, "convert")) == {"download", "convert"}


def test_the_commands_of_docs_on_torchvisions_weights(project: Path) -> None:
    importing, predict = readme("torchvision's weights", "docs/detector.md")
    torch.manual_seed(0)
    torch.save(fcos_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), project / importing[2])
    run(project, *importing)
    assert read(project, "models/detector.json")["categories"][0] == {"id": 1, "name": "person"}
    run(project, *predict, "--score", "0")
    assert (project / "predicted/photo.jpg").is_file()


@pytest.mark.parametrize("stage", ["download", "convert", "train", "evaluate", "inspect"])
def test_a_killed_stage_ends_well_when_run_again(project: Path, stage: str) -> None:
    run(project, "git", "checkout", "-q", "params.yaml")
    run(project, "dvc", "repro")
    before = (project / "models/detector.safetensors").read_bytes()
    shutil.rmtree(project / ".fcos/training", ignore_errors=True)
    running = start(project, "dvc", "repro", "-f", "-s", stage)
    kill_when_at_work(project, stage, running)
    run(project, "dvc", "repro")
    assert (project / "models/detector.safetensors").read_bytes() == before
    assert not list(project.rglob("*.partial*"))


def test_a_killed_training_goes_on_and_ends_as_if_undisturbed(project: Path) -> None:
    params, states = project / "params.yaml", project / ".fcos/training"
    original = params.read_text()
    params.write_text(original.replace("seed: 0", "seed: 1"))  # DVC has no result of it to fall back on
    shutil.rmtree(states, ignore_errors=True)
    running = start(project, "dvc", "repro", "-s", "train")
    kill_when_at_work(project, "train", running)
    (left,) = states.glob("*/state.pt")
    run(project, "dvc", "repro", "-s", "train")
    assert not left.exists()
    resumed = (project / "models/detector.safetensors").read_bytes()
    run(project, "dvc", "repro", "-f", "-s", "train")
    assert (project / "models/detector.safetensors").read_bytes() == resumed
    params.write_text(original)
    run(project, "dvc", "repro")


def start(project: Path, *command: str) -> subprocess.Popen[bytes]:
    """Starts a command in a process group of its own."""
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_when_at_work(project: Path, stage: str, running: subprocess.Popen[bytes]) -> None:
    """`kill -9` for the stage's own process, a moment after it has begun to work (in training: after a saved state)."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = subprocess.run(
            ["pgrep", "-g", str(running.pid), "-f", f"stages.{stage}"], capture_output=True, text=True
        )
        saved = list((project / ".fcos/training").glob("*/state.pt")) if stage == "train" else [project]
        if found.stdout and saved:
            time.sleep(0 if stage == "train" else 1)
            for pid in found.stdout.split():
                with suppress(ProcessLookupError):  # the shell around it went with it
                    os.kill(int(pid), signal.SIGKILL)
            break
        time.sleep(0.05)
    running.communicate(timeout=120)


def test_parameters_changed_while_a_stage_runs_are_told(project: Path) -> None:
    """DVC would write a lock that lies."""
    params = project / "params.yaml"
    original = params.read_text()
    shutil.rmtree(project / ".fcos/training", ignore_errors=True)
    running = start(project, "dvc", "repro", "-f", "-s", "train")
    while not list((project / ".fcos/training").glob("*/state.pt")):
        assert running.poll() is None
        time.sleep(0.02)
    params.write_text(original.replace("flip: 0.0", "flip: 0.5"))
    output, _ = running.communicate(timeout=120)
    assert running.returncode != 0
    assert b"train: params.yaml: train changed while this stage ran" in output
    params.write_text(original)
    run(project, "dvc", "repro")


def test_an_impossible_parameter_is_one_line(project: Path) -> None:
    params = project / "params.yaml"
    original = params.read_text()
    params.write_text(original.replace("loss: iou", "loss: iuo"))
    output = run(project, "dvc", "repro", check=False)
    params.write_text(original)
    assert "loss is 'iuo', but should be 'iou' or 'giou'" in output
    assert "Traceback" not in output
