"""What is recorded of a detector's training, from dvc.lock."""

import json
from pathlib import Path

import pytest

from pipeline.digests import dvc_hash
from pipeline.export.provenance import Provenance, project_of


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """In a project whose data set and unified data are others than those of the training."""
    for name, content in {
        "models/detector.safetensors": "weights",
        "params.yaml": "dataset: custom",
        "data/unified/train.json": "{}",
        "data/unified/val.json": "{}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    stage = {
        "deps": [{"path": "data/unified", "hash": "md5", "md5": "trained.dir"}],
        "params": {"params.yaml": {"dataset": "digits"}},
        "outs": [{"path": "models", "hash": "md5", "md5": dvc_hash(tmp_path / "models")}],
    }
    (tmp_path / "dvc.lock").write_text(json.dumps({"schema": "2.0", "stages": {"train": stage}}))
    return tmp_path / "models/detector.safetensors"


def test_the_data_are_those_of_the_training(weights: Path) -> None:
    found = Provenance.of(weights)
    assert (found.dataset, found.data_digest) == ("digits", "trained.dir")
    assert found.license == "CC BY 4.0 (digits), CC BY 2.0 (photographs)"


def test_links_into_the_cache_of_dvc(weights: Path, tmp_path: Path) -> None:
    cached = tmp_path / "cache/ab/cdef"
    cached.parent.mkdir(parents=True)
    weights.symlink_to(weights.rename(cached))
    assert Provenance.of(weights).data_digest == "trained.dir"
    assert project_of(weights) == tmp_path


def test_nothing_is_known_of_weights_that_the_stage_did_not_write(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other/detector.safetensors"
    other.parent.mkdir()
    other.write_text("weights")
    weights.write_text("weights of another training")
    for path in (weights, other):
        found = Provenance.of(path)
        assert (found.dataset, found.data_digest, found.license, found.model_card) == (None, None, None, None)
