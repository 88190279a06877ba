"""`-S key=value` means what it means to `dvc exp run`; everything else is one line."""

import shutil
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

from pipeline import params, recipes
from pipeline.errors import PipelineError
from pipeline.overrides import override
from tests.support.paths import PROJECT


@pytest.mark.parametrize(
    "options",
    [
        ["train.lr=1e-5", "loss=giou", "train.size=[128,256]"],
        ["convert.classes=[car, van]"],
        ["convert.classes={vehicle: [car, van], person: [person]}"],
        ["convert.classes={vehicle: [car], person: [person]}", "convert.classes={vehicle: [bus]}"],
        ["convert.classes={vehicle: [car]}", "convert.classes=null", "convert.classes={person: [person]}"],
        ["convert={issues: repair, checks: {leak: note}}"],
        ["convert.group_pattern='^(.*)_frame'", "convert.train='o\\'brien é'", "download.path=/a b/c.zip"],
        ["train.channels_last=true", "seed=7", "convert.checks.leak=note", "postprocess.nms=soft_linear"],
    ],
)
def test_as_in_dvc(tmp_path: Path, options: list[str]) -> None:
    file = tmp_path / "params.yaml"
    shutil.copyfile(PROJECT / "params.yaml", file)
    apply_overrides(file, options)
    assert override(params.load(PROJECT / "params.yaml"), options) == params.load(file)


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ("nosuch=3", "nosuch is unknown; known ones: dataset, loss, seed, download,"),
        ("evaluate.nosuch=3", "evaluate.nosuch is unknown; known ones: batch_size, test"),
        ("inspect.split.x=3", "inspect.split.x is unknown; known ones: dataset,"),
        ("inspect.split=tset", "inspect.split is 'tset', but should be 'val' or 'test'"),
        ("evaluate.batch_size='8'", "evaluate.batch_size is '8', but should be a valid integer"),
        ("convert=null", "convert is None, but should"),
        ("convert.classes=[]", "convert.classes"),
        ("convert.classes={}", "convert.classes"),
        ("convert.classes={vehicle: []}", "convert.classes"),
        ("loss", "not key=value: "),
        ("convert.train=o'brien", "not key=value: "),
        ("loss=giou,iou", "several values are for `dvc exp run --queue`; give one"),
        ("+loss=giou", "parameters can be neither added nor removed; give key=value"),
        ("~loss", "parameters can be neither added nor removed; give key=value"),
        ("train.lr=.inf", "train.lr"),
        ("train.lr=nan", "keys should be words, and values words, finite numbers or lists"),
    ],
)
def test_an_invalid_option_is_one_line(option: str, problem: str) -> None:
    with pytest.raises(PipelineError) as caught:
        override(recipes.defaults(), [option])
    assert str(caught.value).startswith(f"-S {option}: {problem}")
    assert "\n" not in str(caught.value)


def test_a_mapping_adds_no_class() -> None:
    with pytest.raises(
        PipelineError, match=r"there is no 'person' to replace; -S convert\.classes=null before it drops"
    ):
        override(recipes.defaults(), ["convert.classes={vehicle: [car]}", "convert.classes={person: [person]}"])
