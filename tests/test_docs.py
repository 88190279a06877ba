"""The commands of docs/, as they stand there. README's are run by test_pipeline.py."""

import shutil
from pathlib import Path

import pytest
import torch
from torchvision.models.detection import fcos_resnet50_fpn

from tests.projects import REPOSITORY, clone, read, readme, run, stages_run


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone(tmp_path_factory.mktemp("untouched"))


def test_the_commands_of_docs_on_recipes(untouched: Path, tmp_path: Path) -> None:
    """Up to the training, which would take an hour."""
    run(untouched, "dvc", "repro", "download")
    listing, writing, elsewhere = readme("Recipes", "docs/recipes.md")
    for command in (listing, writing, elsewhere):
        run(untouched, *command)
    assert (untouched / "params.yaml").read_text() == (REPOSITORY / "pipeline/recipes/cpu_lite0.yaml").read_text()
    assert (untouched / "best.yaml").read_text() == (REPOSITORY / "pipeline/recipes/best_r50.yaml").read_text()
    again, training = readme("Before it runs", "docs/recipes.md")
    run(untouched, *again)
    archive = tmp_path / "mine.zip"
    shutil.make_archive(str(archive.with_suffix("")), "zip", untouched / "data/raw/digits")
    training = [word.replace("/data/mine.zip", str(archive)) for word in training]
    assert stages_run(run(untouched, *training, "convert")) == {"download", "convert"}


def test_the_commands_of_docs_on_torchvisions_weights(untouched: Path) -> None:
    shutil.copy(REPOSITORY / "docs/images/detections.jpg", untouched / "photo.jpg")
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
    assert several[0] == "torchrun"  # tests/pipeline/test_launching.py has one, on one machine
    assert "whole training" in run(project, *check)
    run(project, *show)
    assert len(list((project / "seen").glob("*.jpg"))) == 3  # 24 images by 8
    run(project, *together, "train")
    assert read(project, "metrics/train.json")["steps"] == 6
    run(project, "git", "checkout", "-q", "params.yaml")
    # Twice as large as they are made here: of the smallest, hidden by others, one would stay unknown.
    run(project, *by_heart, "-S", "train.size=[256,256]", "train")
    assert read(project, "metrics/train.json")["val"]["AP50"] >= 0.95
