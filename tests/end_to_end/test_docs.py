"""The commands of docs/, as they stand there. README's are run by test_pipeline.py and test_own_data.py."""

import shutil
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from dvc.utils.hydra import apply_overrides
from torchvision.models.detection import fcos_resnet50_fpn

from pipeline import recipes
from tests.support.http_servers import serving
from tests.support.projects import PROJECT, clone, read, readme, run, stages_run


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone(tmp_path_factory.mktemp("untouched"))


def test_the_commands_of_docs_on_recipes(untouched: Path, tmp_path: Path) -> None:
    """Up to the training, which would take an hour."""
    run(untouched, "dvc", "repro", "download")
    listing, writing, elsewhere = readme("Recipes", "docs/recipes.md")
    for command in (listing, writing, elsewhere):
        run(untouched, *command)
    assert (untouched / "params.yaml").read_text() == recipes.find("cpu_lite0").text
    assert (untouched / "best.yaml").read_text() == recipes.find("best_r50").text
    again, training = readme("Before it runs", "docs/recipes.md")
    run(untouched, *again)
    archive = tmp_path / "mine.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", untouched / "data/raw/digits")
    training = [word.replace("/data/mine.zip", str(archive)) for word in training]
    assert stages_run(run(untouched, *training, "convert")) == {"download", "convert"}


def test_the_commands_of_docs_on_torchvisions_weights(untouched: Path) -> None:
    shutil.copy(PROJECT / "docs/images/detections.jpg", untouched / "photo.jpg")
    importing, predict = readme("torchvision's weights", "docs/detector.md")
    torch.manual_seed(0)
    torch.save(fcos_resnet50_fpn(weights=None, weights_backbone=None).state_dict(), untouched / importing[2])
    run(untouched, *importing)
    assert read(untouched, "models/detector.json")["categories"][0] == {"id": 1, "name": "person"}
    run(untouched, *predict, "--score", "0")
    assert (untouched / "predicted/photo.jpg").is_file()


def test_the_commands_on_training(tmp_path_factory: pytest.TempPathFactory) -> None:
    """README's and docs/training.md's, but for the one that needs two machines."""
    project = clone(tmp_path_factory.mktemp("training"))
    run(project, "dvc", "repro", "convert")
    check, show, together = readme("Train for real")
    assert readme("Before you commit a day to it", "docs/training.md")[:2] == [check, show]
    by_heart = readme("Before you commit a day to it", "docs/training.md")[2]
    alone, several = readme("On several GPUs, or processes", "docs/training.md")
    assert alone == together
    assert several[0] == "torchrun"  # tests/pipeline/training/test_launch.py has one, on one machine
    assert "whole training" in run(project, *check)
    run(project, *show)
    assert len(list((project / "seen").glob("*.jpg"))) == 3  # 24 images by 8
    run(project, *together, "train")
    assert read(project, "metrics/train.json")["steps"] == 6
    run(project, "git", "checkout", "-q", "params.yaml")
    # Twice as large as they are made here: of the smallest, hidden by others, one would stay unknown.
    run(project, *by_heart, "-S", "train.size=[256,256]", "train")
    found = read(project, "metrics/train.json")
    assert (found["overfit"], found["val"]["AP50"] >= 0.95) == (4, True)
    header = (project / "plots/loss.csv").read_text().splitlines()[0].split(",")
    assert {"learning_rate", "gradient_norm", "objects"} <= set(header)
    assert "annotated" not in header
    assert (project / "plots/optimizer.png").is_file()


def test_the_commands_on_data_sets(untouched: Path, tmp_path: Path) -> None:
    """docs/datasets.md's, but for FiftyOne's zoo, which needs the network: see integrations/test_fiftyone_zoo.py."""
    run(untouched, "git", "checkout", "-q", "params.yaml")
    run(untouched, "dvc", "repro", "download")
    archive = tmp_path / "mine.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", untouched / "data/raw/digits")
    shutil.copytree(untouched / "data/raw/digits", untouched / "my-data")
    shutil.copy(archive, untouched / "BCCD.zip")

    def here(command: list[str]) -> list[str]:
        return [word.replace("/data/mine.zip", str(archive)) for word in command]

    page, own, repaired = map(here, data_sets("Bring your own"))
    assert "nothing would stop the conversion" in run(untouched, *page)
    assert (untouched / "health.html").stat().st_size > 10_000
    converted(untouched, own)
    assert read(untouched, "data/unified/report.json")["issues"] == "error"
    converted(untouched, repaired)
    assert read(untouched, "data/unified/report.json")["issues"] == "repair"
    (again,) = data_sets("Is it healthy?")
    run(untouched, *here(again))
    for command in data_sets("Handing a data set on"):
        run(untouched, *command)
    assert (untouched / "my-data-yolo/data.yaml").is_file()
    assert (untouched / "bccd-coco/annotations/val.json").is_file()
    assert len(list((untouched / "my-data-voc/JPEGImages").iterdir())) == 32


def test_the_options_of_conversion(untouched: Path) -> None:
    whole, *checks = data_sets("Checks")
    assert whole == ["dvc", "repro"]
    groups, folds = data_sets("Splits")
    for command in (*checks, folds):
        converted(untouched, command)
    assert read(untouched, "data/unified/report.json")["hold_out"]["folds"] == 5
    # None of its files is a frame of a sequence, and with folds that matters.
    said = converted(untouched, [*groups, "-S", "convert.folds=2"], fails=True)
    assert "convert.group_pattern" in said


def test_the_commands_on_data_sets_by_name(untouched: Path, tmp_path: Path) -> None:
    listing, one, bccd = data_sets("Data sets by name")
    assert "voc0712_keras_fcos" in run(untouched, *listing)
    assert "sha256:" in run(untouched, *one)
    shutil.make_archive(str(tmp_path / "mine"), "zip", untouched / "my-data")
    with serving(tmp_path) as address:
        (untouched / "mine.yaml").write_text(f"files:\n- urls: [{address}/mine.zip]\n")
        checking, fetching = data_sets("An entry of your own")
        run(untouched, *checking)
        converted(untouched, fetching)
    assert read(untouched, "data/unified/report.json")["splits"]["val"]["images"] == 8
    archive = PROJECT.parent / "shared/data/bccd.zip"
    if not archive.is_file():
        pytest.skip("../shared/data/bccd.zip is not there")
    (tmp_path / "mirror").mkdir()
    shutil.copy(archive, tmp_path / "mirror/BCCD_Dataset-d272fb1.zip")
    converted(untouched, [*bccd, "-S", f"download.mirror={tmp_path}/mirror"])
    assert read(untouched, "data/unified/report.json")["splits"]["train"]["images"] == 205


def data_sets(section: str) -> list[list[str]]:
    return readme(section, "docs/datasets.md")


def converted(project: Path, command: list[str], *, fails: bool = False) -> str:
    """What `dvc exp run -S …` does up to conversion: DVC's own way to change params.yaml, then both stages."""
    assert command[:3] == ["dvc", "exp", "run"]
    run(project, "git", "checkout", "-q", "params.yaml")
    apply_overrides(project / "params.yaml", [value for flag, value in pairwise(command) if flag == "-S"])
    said = ""
    for stage in ("download", "convert") if any("download" in word for word in command) else ("convert",):
        said += run(project, sys.executable, "-m", f"pipeline.stages.{stage}", check=not fails)
    return said
