"""Splits other than `inspect.split` in the App: datasets of their own, and labels that changed since a cross-check."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner

from pipeline import params
from pipeline.analysis import cross_check_files
from pipeline.cli import main
from pipeline.conversion import corrections
from pipeline.data import annotations
from pipeline.errors import PipelineError
from pipeline.files import digest, write_json
from pipeline.integrations import fiftyone, fiftyone_corrections
from pipeline.integrations.fiftyone_corrections import Label, Sample
from tests.support.inspected_project import DETECTIONS, SCENE


@pytest.fixture
def checked(inspected: Any) -> Path:
    """The project after a cross-check of train and val, whose images and labels are the same here."""
    root: Path = inspected.root
    annotations.write(SCENE, root / "data/unified/train.json")
    cross_check_files.write(root, {"train": DETECTIONS[:3], "val": DETECTIONS})
    write_json(root / "reports/label_errors.json", [])
    return root


def remove_a_label(root: Path, split: str) -> None:
    annotations.write(
        annotations.AnnotationSet(SCENE.categories, SCENE.images, SCENE.annotations[1:]),
        root / f"data/unified/{split}.json",
    )


def test_train_is_shown_with_the_detections_of_the_cross_check(checked: Path) -> None:
    (checked / "metrics").mkdir()
    (checked / "metrics/evaluate.json").write_text('{"coco": {"AP": 0.25, "AP50": 0.5}}')
    train, val = (fiftyone.dataset_spec(params.load(), split) for split in ("train", "val"))
    assert (train.name, val.name) == ("fcos-digits-train", "fcos-digits")
    assert train.predictions == str(checked / "reports/cross_check/train.json")
    assert (train.metrics, val.metrics) == ({}, {"AP": 0.25, "AP50": 0.5})
    # The map of embeddings is that of inspect.split.
    assert (set(train.extras), set(val.extras)) == ({"label_errors"}, {"label_errors", "map", "embeddings"})


def test_what_was_found_in_other_labels_is_not_shown(checked: Path) -> None:
    remove_a_label(checked, "val")
    assert set(fiftyone.dataset_spec(params.load()).extras) == {"map", "embeddings"}
    with pytest.raises(PipelineError, match=r"train\.json: the labels .* changed since; run `fcos cross-check` again"):
        fiftyone.dataset_spec(params.load(), "train")
    (checked / "reports/cross_check/train.json").unlink()
    with pytest.raises(PipelineError, match=r"cross_check/train\.json: not there yet; run `fcos cross-check`"):
        fiftyone.dataset_spec(params.load(), "train")


@pytest.mark.usefixtures("checked")
def test_the_option_of_fcos_app(monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    served = nullcontext(mock.Mock(address="the address"))
    monkeypatch.setattr(fiftyone, "serve", lambda name, *_, **__: names.append(name) or served)
    for options in ((), ("--split", "val"), ("--split", "train")):
        assert CliRunner(catch_exceptions=False).invoke(main, ["app", *options]).exit_code == 0
    assert names == ["fcos-digits", "fcos-digits", "fcos-digits-train"]
    result = CliRunner().invoke(main, ["app", "--split", "train", "giou"])
    assert "EXPERIMENTS have no detections in train" in result.stderr


def test_corrections_of_two_splits_join(checked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each split has its own state, so that collecting one doesn't take back what was collected from the other."""
    tags = {"fcos-digits": ("remove",), "fcos-digits-train": ("relabel:dog",)}

    def run_child(_: str, name: str, __: Any) -> Any:
        samples = [asdict(Sample(image.id, (), labels_of(image.id, tags[name]))) for image in SCENE.images]
        return {"created": name, "annotations_digest": digests[name], "samples": samples}

    splits = {"fcos-digits": "val", "fcos-digits-train": "train"}
    digests = {name: digest(checked / f"data/unified/{split}.json") for name, split in splits.items()}
    monkeypatch.setattr(fiftyone_corrections, "run_child", run_child)
    file = checked / "data/corrections/digits.json"
    # Both splits have the same images here, so the second correction replaces the first.
    for options, expected in (((), "remove"), (("--split", "train"), "relabel"), (("--split", "train"), "relabel")):
        assert CliRunner(catch_exceptions=False).invoke(main, ["collect", *options]).exit_code == 0
        assert [record.action for record in corrections.read(file)] == [expected]
    assert {path.name for path in (checked / ".fcos/collected").iterdir()} == {"digits.json", "fcos-digits-train.json"}
    digests["fcos-digits-train"] = "of yesterday"
    result = CliRunner().invoke(main, ["collect", "--split", "train"])
    assert "was built before data/unified/train.json changed" in result.stderr
    assert "`fcos app --split train` builds it anew" in result.stderr


def labels_of(image: int, tags: tuple[str, ...]) -> tuple[Label, ...]:
    """The labels of an image as the App has them; that with id 1 has tags."""
    names = {category.id: category.name for category in SCENE.categories}
    return tuple(
        Label(
            "ground_truth",
            item.id,
            names[item.category_id],
            (item.bbox[0] / 200, item.bbox[1] / 100, item.bbox[2] / 200, item.bbox[3] / 100),
            tags if item.id == 1 else (),
        )
        for item in SCENE.annotations
        if item.image_id == image
    )
