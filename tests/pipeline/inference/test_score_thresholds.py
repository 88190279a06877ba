"""Where the score thresholds of a saved detector come from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.weights import Description
from pipeline.errors import PipelineError
from pipeline.files import digest
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.score_thresholds import DEFAULT, score_thresholds

POINTS = {"all": {"score": 0.3, "f1": 0.5}, "classes": {"cat": {"score": 0.2, "f1": 0.9}, "dog": None}}


@pytest.fixture
def detector() -> SavedDetector:
    config = replace(PAPER, backbone="tiny", pretrained=False, channels=8, levels=(3,), tower_depth=0, frozen_stages=0)
    description = Description(model=config, categories=((7, "cat"), (3, "dog")), input_size=InputSize((64, 64)))
    return SavedDetector(build(config, 2), description)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "models/detector.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


def write_points(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("place", ["predictions", "models"])
def test_those_of_evaluation(detector: SavedDetector, weights: Path, tmp_path: Path, place: str) -> None:
    write_points(tmp_path / place / "operating_point.json", {"weights": digest(weights)} | POINTS)
    assert score_thresholds(weights, detector).tolist() == pytest.approx([0.2, 0.3])  # dog has that for all
    assert score_thresholds(weights, detector, 0.7).tolist() == pytest.approx([0.7, 0.7])


def test_the_default_where_nothing_fits(detector: SavedDetector, weights: Path, tmp_path: Path) -> None:
    assert score_thresholds(weights, detector).tolist() == [DEFAULT] * 2
    path = write_points(tmp_path / "predictions/operating_point.json", {"weights": "of another training"} | POINTS)
    assert score_thresholds(weights, detector).tolist() == [DEFAULT] * 2
    nothing = {"weights": digest(weights), "all": None, "classes": {"cat": None, "dog": None}}
    write_points(path, nothing)
    assert score_thresholds(weights, detector).tolist() == [DEFAULT] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "weights"),
        ({"weights": "w", "all": {"score": 2}, "classes": {}}, "all: score is 2"),
        ({"weights": "w", "all": None, "classes": {"cat": {}}}, "cat"),
    ],
)
def test_an_invalid_file_is_one_line(
    detector: SavedDetector, weights: Path, tmp_path: Path, content: dict[str, Any], message: str
) -> None:
    path = write_points(tmp_path / "predictions/operating_point.json", content)
    with pytest.raises(PipelineError) as caught:
        score_thresholds(weights, detector)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
