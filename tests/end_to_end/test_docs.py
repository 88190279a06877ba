"""The commands of docs/, exactly as documented. test_pipeline.py and test_own_data.py run those of README.md."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from dvc.utils.hydra import apply_overrides
from PIL import Image
from torchvision.models.detection import fcos_resnet50_fpn

from pipeline import params, recipes
from pipeline.evaluation import resampling
from pipeline.files import write_json
from pipeline.integrations import fiftyone
from pipeline.training.initial_weights import find_weights
from tests.support.http_servers import serving
from tests.support.noise import noise
from tests.support.projects import PROJECT, copy, read, readme, run, run_stage, stages_run

SCALE = "docs/scale.md"
TRAINING = "docs/training.md"


def test_the_commands_of_docs_on_recipes(project: Path, tmp_path: Path) -> None:
    """Up to conversion: the training would take an hour."""
    listing, to_params, to_file = readme("Recipes", "docs/recipes.md")
    for command in (listing, to_params, to_file):
        run(project, *command)
    assert (project / "params.yaml").read_text() == recipes.find("cpu_lite0").text
    assert (project / "best.yaml").read_text() == recipes.find("best_r50").text
    run(project, "git", "checkout", "-q", "params.yaml")
    convert, auto, copy_file = readme("For your own data", "docs/recipes.md")
    assert stages_run(run(project, *convert)) == set()
    assert "train.epochs=" in run(project, *auto)
    assert params.load(project / "auto.yaml").convert == params.load(project / "params.yaml").convert
    run(project, *copy_file)
    assert (project / "params.yaml").read_text() == (project / "auto.yaml").read_text()
    forced, training = readme("Before it runs", "docs/recipes.md")
    run(project, *forced)
    archive = tmp_path / "mine.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", project / "data/raw/digits")
    training = [word.replace("/data/mine.zip", str(archive)) for word in training]
    assert stages_run(run(project, *training, "convert")) == {"download", "convert"}
    run(project, "git", "checkout", "-q", "params.yaml")


def test_the_commands_on_mlflow(project: Path) -> None:
    """Those of docs/mlflow.md, except those that need a server: see tests/pipeline/integrations.

    The next test replaces the detector.
    """
    ((register_command,), (ui,), (address, token, *sync)) = (
        readme(section, "docs/mlflow.md")
        for section in ("Models", "Experiments that DVC restores", "A server of your own")
    )
    assert run(project, *register_command) == "fcos-digits, version 1: models:/fcos-digits@champion loads it\n"
    assert ui == ["fcos", "ui", "my-experiment"]
    assert [words[1].partition("=")[0] for words in (address, token)] == [
        "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN",
    ]  # fmt: skip
    assert [run(project, *command) for command in sync] == ["MLflow: nothing to send\n"]


def test_the_commands_of_docs_on_inspection(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that open the App only up to what its child process gets, which tests/pipeline/integrations runs."""
    children: list[Any] = []
    detections: list[str] = []

    def run_child(*child: Any) -> Any:
        children.append(child)
        detections.extend(Path(item["predictions"]).read_text() for item in child[2] if "predictions" in item)
        return ["old"]

    @contextmanager
    def serve(_: str, __: int, build: Callable[[], object], *, query: str) -> Iterator[Any]:
        build()
        yield SimpleNamespace(address=f"http://127.0.0.1/{query}", wait=lambda: None)

    monkeypatch.setattr(fiftyone, "run_child", run_child)
    monkeypatch.setattr(fiftyone, "serve", serve)
    ((add,), before_and_after) = (
        readme(section, "docs/inspection.md") for section in ("3. Compare experiments", "5. Fix the data")
    )
    run(project, "git", "add", ".")
    run(project, "git", "commit", "-qm", "results")
    assert add == ["fcos", "app", "NAME"]
    assert "view=operating-point" in run(project, "fcos", "app", "HEAD")
    ((_, name, (workspace, experiment)),) = children
    assert (name, workspace["experiment"], experiment["experiment"]) == ("fcos-digits", None, "HEAD")
    assert detections == 2 * [(project / "predictions/val.json").read_text()]
    assert experiment["predictions"] != workspace["predictions"]
    same = ("name", "split", "annotations", "images", "score_thresholds", "iou_threshold", "metrics")
    assert [experiment[key] for key in same] == [workspace[key] for key in same]
    assert run(project, "fcos", "app", "--prune") == "removed from FiftyOne: old\n"
    references = run(project, "git", "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps/??/*/*").split()
    names = ["fcos-digits", "fcos-digits-val", "fcos-digits-test"]
    assert children[1][1:] == ("fcos-digits", {"names": names, "keep": references})  # other tests' experiments
    get, compare = before_and_after
    run(project, *get)
    assert (project / "before.json").read_bytes() == (project / "predictions/val.json").read_bytes()
    assert "no difference" in run(project, *compare)
    # The corrected ground truth isn't that of the revision.
    truth = read(project, "data/unified/val.json")
    truth["annotations"].pop()
    (project / "data/unified/val.json").unlink()
    write_json(project / "data/unified/val.json", truth)
    refused = run(project, "fcos", "app", "HEAD", check=False)
    assert refused.startswith("fcos: HEAD was not evaluated on the ground truth of the workspace: ")
    run(project, *compare)
    run(project, "dvc", "checkout", "-q", "--force", "convert")


def test_the_commands_of_docs_on_torchvisions_weights(project: Path) -> None:
    # Narrow: a detector of torchvision enlarges the shorter side to 800 pixels, the longer one at most to 1333.
    Image.fromarray(noise(400, 40)).save(project / "photo.jpg")
    importing, predict = readme("torchvision's weights", "docs/detector.md")
    torch.manual_seed(0)
    torch.save(fcos_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), project / importing[2])
    run(project, *importing)
    assert read(project, "models/detector.json")["categories"][0] == {"id": 1, "name": "person"}
    run(project, *predict, "--score", "0")
    assert (project / "predicted/photo.jpg").is_file()


def test_the_commands_on_starting_from_another_detector(reproduced: Path, tmp_path: Path) -> None:
    """DVC sees the detector; tests/pipeline/training/test_initial_weights.py starts from one."""
    project = copy(reproduced, tmp_path / "project")
    copying, training, torchvision, get, add, commit, queue = readme("Starting from another detector", TRAINING)
    run(project, *copying)
    assert "modified:           data/start_from" in run(project, "dvc", "status", "train")
    assert training[:3] == torchvision[:3] == queue[:3] == ["dvc", "exp", "run"]
    run(project, "git", "add", "dvc.lock")
    run(project, "git", "commit", "-qm", "box-4")
    run(project, *(word.replace("box-4", "HEAD") for word in get[:-1]), get[-1])
    run(project, *add)
    split = commit.index("&&")
    run(project, *commit[:split])
    run(project, *commit[split + 1 :])
    assert run(project, "git", "show", "--name-only", "--format=").split() == ["data/.gitignore", "data/box-4.dvc"]
    with chdir(project):
        assert find_weights(queue[-1].partition("=")[2], "key") == project / "data/box-4/detector.safetensors"


def test_the_commands_on_training(reproduced: Path, tmp_path: Path) -> None:
    """Those of README.md and docs/training.md, except the one that needs two machines."""
    project = copy(reproduced, tmp_path / "project")
    check, show, two_processes = readme("Train for real")
    assert readme("Before a long training", "docs/training.md")[:2] == [check, show]
    overfit = readme("Before a long training", "docs/training.md")[2]
    one_machine, two_machines = readme("Several GPUs or processes", "docs/training.md")
    assert one_machine == two_processes
    assert two_machines[0] == "torchrun"  # tests/pipeline/training/test_launch.py runs it on one machine
    assert "whole training" in run(project, *check)
    run(project, *show)
    assert len(list((project / "seen").glob("*.jpg"))) == 3  # 24 images in batches of 8
    validate, train_on_tiles, show_tiles = readme("Small objects in large images", TRAINING)
    assert (validate[1], train_on_tiles[-1].partition("=")[0]) == ("validate", "evaluate.tiles")
    run(project, *show_tiles[:2], "-S", "train.tiles=[64, 0.2]", *show_tiles[4:], "--batches", "1")
    keep, copying, longer = readme("Training longer", TRAINING)
    run(project, *two_processes, *keep[3:], "train")
    assert read(project, "metrics/train.json")["steps"] == 6
    run(project, *copying)
    line = "train.extend_from: goes on after epoch 2, with the state of muon\n"
    assert line in run(project, *longer, "-S", "train.epochs=1", "-S", "machine.devices=1", "train")
    metrics = read(project, "metrics/train.json")
    assert (metrics["epochs"], metrics["steps"]) == (3, 9)
    for file in copying[1:-1]:
        (project / "data/extend_from" / Path(file).name).unlink()
    run(project, "git", "checkout", "-q", "params.yaml")
    # Larger than the images: at their own size, one of the smallest digits, partly hidden, is never detected.
    run(project, *overfit, "-S", "train.size=[192,192]", "train")
    metrics = read(project, "metrics/train.json")
    assert (metrics["overfit"], metrics["val"]["AP50"] >= 0.95) == (4, True)
    header = (project / "plots/loss.csv").read_text().splitlines()[0].split(",")
    assert {"learning_rate", "gradient_norm", "objects"} <= set(header)
    assert "annotated" not in header
    assert (project / "plots/optimizer.png").is_file()


def test_the_commands_on_views(reproduced: Path, tmp_path: Path) -> None:
    """Those of docs/evaluation.md. DVC's function changes params.yaml, then the stage runs, as in `dvc exp run`."""
    project = copy(reproduced, tmp_path / "project")
    experiment, predict = readme("Several views of an image", "docs/evaluation.md")
    assert (experiment[:4], experiment[5:]) == (["dvc", "exp", "run", "-S"], ["evaluate"])
    apply_overrides(project / "params.yaml", [experiment[4]])
    assert run_stage(project, "evaluate").returncode == 0
    views = read(project, "predictions/operating_point.json")["views"]
    assert views["sizes"] == [[256, 256], [320, 320]]
    output = run(project, *predict)
    # The thresholds were chosen without tiles.
    assert (
        "other views of each image (sizes 256×256 and 320×320) than these (sizes 256×256 and 320×320, tiles" in output
    )
    assert len(list((project / "predicted").glob("*.jpg"))) == 8


def test_the_commands_on_data_sets(project: Path, tmp_path: Path) -> None:
    """Those of docs/datasets.md, except FiftyOne's zoo, which needs the network: see test_fiftyone_zoo.py."""
    run(project, "git", "checkout", "-q", "params.yaml")
    archive = tmp_path / "mine.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", project / "data/raw/digits")
    shutil.copytree(project / "data/raw/digits", project / "my-data")
    shutil.copy(archive, project / "BCCD.zip")

    def with_archive(command: list[str]) -> list[str]:
        return [word.replace("/data/mine.zip", str(archive)) for word in command]

    page, strict, repaired = map(with_archive, data_sets("Bring your own"))
    assert "nothing would stop the conversion" in run(project, *page)
    assert (project / "health.html").stat().st_size > 10_000
    convert(project, strict)
    assert read(project, "data/unified/report.json")["issues"] == "error"
    convert(project, repaired)
    assert read(project, "data/unified/report.json")["issues"] == "repair"
    (validate,) = data_sets("Is it healthy?")
    run(project, *with_archive(validate))
    for command in data_sets("Handing a data set on"):
        run(project, *command)
    assert (project / "my-data-yolo/data.yaml").is_file()
    assert (project / "bccd-coco/annotations/val.json").is_file()
    assert len(list((project / "my-data-voc/JPEGImages").iterdir())) == 32


def test_the_options_of_conversion(project: Path) -> None:
    repro, *checks = data_sets("Checks")
    assert repro == ["dvc", "repro"]
    groups, folds = data_sets("Splits")
    for command in (*checks, folds):
        convert(project, command)
    assert read(project, "data/unified/report.json")["hold_out"]["folds"] == 5
    # No file matches the pattern, which is an error where groups are divided into folds.
    output = convert(project, [*groups, "-S", "convert.folds=2"], fails=True)
    assert "convert.group_pattern" in output


def test_the_commands_on_data_sets_by_name(project: Path, tmp_path: Path) -> None:
    listing, entry, bccd = data_sets("Data sets by name")
    assert "voc0712_keras_fcos" in run(project, *listing)
    assert "sha256:" in run(project, *entry)
    shutil.make_archive(str(tmp_path / "mine"), "zip", project / "data/raw/digits")
    with serving(tmp_path) as address:
        (project / "mine.yaml").write_text(f"files:\n- urls: [{address}/mine.zip]\n")
        validate, fetch = data_sets("An entry of your own")
        run(project, *validate)
        convert(project, fetch)
    assert read(project, "data/unified/report.json")["splits"]["val"]["images"] == 8
    archive = PROJECT.parent / "shared/data/bccd.zip"
    if not archive.is_file():
        pytest.skip("../shared/data/bccd.zip does not exist")
    (tmp_path / "mirror").mkdir()
    shutil.copy(archive, tmp_path / "mirror/BCCD_Dataset-d272fb1.zip")
    convert(project, [*bccd, "-S", f"download.mirror={tmp_path}/mirror"])
    assert read(project, "data/unified/report.json")["splits"]["train"]["images"] == 205


def test_the_commands_on_comparisons(reproduced: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same result under each name; test_experiments.py compares different ones."""
    monkeypatch.setattr(resampling, "DRAWS", 50)
    project = copy(reproduced, tmp_path / "project")
    for command in (("add", "-A"), ("commit", "-qm", "result"), ("tag", "baseline"), ("tag", "giou")):
        run(project, "git", *command)
    seeds, by_name, page, in_ci, files = readme("Compare", "docs/experiments.md")
    assert seeds == ["fcos", "compare", "box-{1..12}"]  # test_pipeline.py compares seeds
    for name in ("old.json", "new.json"):
        shutil.copy(project / "predictions/val.json", project / name)
    shutil.copy(project / "data/unified/val.json", project / "truth.json")
    assert "B has fewer errors than A in 0 images, more in 0, and as many in 8" in run(project, *by_name)
    run(project, *page)
    assert "8 images, " in (project / "comparison.html").read_text()
    run(project, *in_ci)
    ap = json.loads(run(project, *files))["comparisons"][0]["metrics"]["AP"]
    assert ap["a"] == pytest.approx(read(project, "metrics/evaluate.json")["coco"]["AP"], abs=1e-6)
    assert ap["difference"] == 0


def data_sets(section: str) -> list[list[str]]:
    return readme(section, "docs/datasets.md")


def convert(project: Path, command: list[str], *, fails: bool = False) -> str:
    """Runs the stages up to conversion as `dvc exp run -S …` does: DVC's function changes params.yaml, then they run.

    Returns the output of the stages.
    """
    assert command[:3] == ["dvc", "exp", "run"]
    run(project, "git", "checkout", "-q", "params.yaml")
    apply_overrides(project / "params.yaml", [value for flag, value in pairwise(command) if flag == "-S"])
    output = ""
    for stage in ("download", "convert") if any("download" in word for word in command) else ("convert",):
        done = run_stage(project, stage)
        output += done.stdout + done.stderr
        assert (done.returncode != 0) == fails, output
    return output


def test_the_commands_beyond_one_machine(reproduced: Path, tmp_path: Path) -> None:
    """Those of docs/scale.md that need no cluster and no server, with a folder in place of the bucket."""
    project = copy(reproduced, tmp_path / "project")
    address, torchrun, commit, repro = readme("Several nodes", SCALE)
    assert address[1].partition("=")[0] == "GLOO_SOCKET_IFNAME"
    assert torchrun == readme("Several GPUs or processes", TRAINING)[1]
    assert [command[0] for command in (*readme("Slurm", SCALE), *readme("Kubernetes", SCALE))] == ["sbatch", "kubectl"]
    for *_, file in (*readme("Slurm", SCALE), *readme("Kubernetes", SCALE)):
        assert (project / file).is_file()
    # As if torchrun had trained another detector.
    (project / "models/detector.json").unlink()
    shutil.copy(project / "models/detector.safetensors", project / "models/detector.json")
    before = (project / "dvc.lock").read_text()
    run(project, *commit)
    assert (project / "dvc.lock").read_text() != before
    assert repro == ["dvc", "repro"]
    add, modify, push, pull = readme("Data in object storage", SCALE)
    run(project, *(word.replace("s3://my-bucket", str(tmp_path / "bucket")) for word in add))
    assert modify[:5] == ["dvc", "remote", "modify", "storage", "endpointurl"]  # only S3's
    assert "pushed" in run(project, *push)
    shutil.rmtree(project / ".dvc/cache")
    shutil.rmtree(project / "data/unified")
    run(project, *pull)
    assert (project / "data/unified/train.json").is_file()
    variables = [command[1].partition("=")[0] for command in readme("Shared tracking", SCALE)]
    assert variables == ["MLFLOW_TRACKING_URI", "FIFTYONE_DATABASE_URI", "FIFTYONE_DATABASE_NAME"]
