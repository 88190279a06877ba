"""Small data sets like those that people have had trouble with: what comes out of each, with the default parameters."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.analysis.findings import Health
from pipeline.analysis.health import examine
from pipeline.datasets.staging import open_dataset
from pipeline.errors import PipelineError
from pipeline.params import load
from tests.support.paths import PROJECT, SHARED


@pytest.fixture
def health() -> Callable[..., Health]:
    """What `fcos validate` finds in a shared input; skips, naming it, where it is not there."""

    def validate(name: str, **options: Any) -> Health:
        path = SHARED / "cases" / name
        if not path.exists():
            pytest.skip(f"../shared/cases/{name} is not there")
        with open_dataset(path) as raw:
            return examine(raw, replace(load(PROJECT / "params.yaml").convert, **options))

    return validate


def counts(health: Health) -> tuple[int, int]:
    """The usable images and objects of all splits."""
    splits = health.survey.splits.values()
    return sum(len(split.images) for split in splits), sum(len(split.annotations) for split in splits)


@pytest.mark.parametrize(
    ("name", "format"),
    [("nfd_coco", "coco"), ("nfd_yolo", "yolo"), ("zips/infozip_utf8.zip", "coco"), ("jfif_coco", "coco")],
)
def test_ten_images(health: Callable[..., Health], name: str, format: str) -> None:
    found = health(name)
    assert found.usable
    assert (found.survey.format, *counts(found)) == (format, 10, 20)
    assert found.survey.unused_image_files == 0


def split_counts(health: Health) -> dict[str, tuple[int, int]]:
    return {name: (len(split.images), len(split.annotations)) for name, split in health.survey.splits.items()}


def test_split_names_with_other_words(health: Callable[..., Health]) -> None:
    assert split_counts(health("f_custom_train")) == {"train": (20, 63), "val": (20, 95)}


def test_train_is_val(health: Callable[..., Health]) -> None:
    found = health("yolo_train_is_val")
    assert found.usable
    assert (found.survey.sources["val"], *counts(found)) == ("a share of train", 10, 20)
    assert found.survey.issue_log.remarks[0].startswith("val: split val has all images of train and is left out")
    folds = health("yolo_train_is_val", folds=5)
    assert folds.usable
    assert (folds.survey.sources["val"], *counts(folds)) == ("fold 0 of 5 of train", 10, 20)


def test_every_missing_image_counts(health: Callable[..., Health]) -> None:
    found = health("c_darknet_missing")
    assert found.survey.issue_log.counts["missing_image"] == 408
    assert counts(found) == (4, 4)


@pytest.mark.parametrize(("name", "line"), [("yaml_winpath", 1), ("yaml_tab", 3), ("ls_yolo_notes", None)])
def test_data_yaml_and_notes(health: Callable[..., Health], name: str, line: int | None) -> None:
    found = health(name)
    assert found.usable
    assert (found.survey.format, *counts(found)) == ("yolo", 10, 20)
    assert [category.name for category in found.survey.splits["train"].categories] == ["red", "blue"]
    remarks = found.survey.issue_log.remarks
    assert [remark.startswith(f"data.yaml: line {line}: ") for remark in remarks] == ([True] if line else [])


def test_panoptic_annotations(health: Callable[..., Health]) -> None:
    with pytest.raises(
        PipelineError, match=r"^annotations/panoptic_train2017\.json: panoptic annotations: .* instances"
    ):
        health("k_panoptic")


def test_labelme_xml(health: Callable[..., Health]) -> None:
    found = health("t_labelme_xml", val_fraction=0.0001)
    assert counts(found) == (1, 7)
    [remark] = found.survey.issue_log.remarks
    assert remark.startswith("2 objects drawn as masks alone")
    assert remark.endswith("img1.xml: object 2, Annotations/subset1/img1.xml: object 6")
