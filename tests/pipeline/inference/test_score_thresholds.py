"""Where the score thresholds of a saved detector come from."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.files import digest
from pipeline.inference.score_thresholds import DEFAULT_SCORE, describe, score_thresholds, thresholds_of_predictions

POINTS = {"all": {"score": 0.3, "f1": 0.5}, "classes": {"cat": {"score": 0.2, "f1": 0.9}, "dog": None}}


CLASSES = ("cat", "dog")


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
def test_those_of_evaluation(weights: Path, tmp_path: Path, place: str) -> None:
    write_points(tmp_path / place / "operating_point.json", {"weights": digest(weights)} | POINTS)
    assert score_thresholds(weights, CLASSES) == pytest.approx([0.2, 0.3])  # dog has that for all
    assert score_thresholds(weights, CLASSES, 0.7) == pytest.approx([0.7, 0.7])


def test_weights_may_be_links(weights: Path, tmp_path: Path) -> None:
    """Into DVC's cache (`cache.type symlink`), and from another folder to a project's weights."""
    write_points(tmp_path / "predictions/operating_point.json", {"weights": digest(weights)} | POINTS)
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "elsewhere/link.safetensors"
    link.symlink_to(weights)
    assert score_thresholds(link, CLASSES) == pytest.approx([0.2, 0.3])
    cached = tmp_path / "cache/ab/cdef"
    cached.parent.mkdir(parents=True)
    weights.symlink_to(weights.rename(cached))
    assert score_thresholds(weights, CLASSES) == pytest.approx([0.2, 0.3])


def test_the_default_where_nothing_fits(weights: Path, tmp_path: Path) -> None:
    assert score_thresholds(weights, CLASSES) == [DEFAULT_SCORE] * 2
    path = write_points(tmp_path / "predictions/operating_point.json", {"weights": "of another training"} | POINTS)
    assert score_thresholds(weights, CLASSES) == [DEFAULT_SCORE] * 2
    nothing = {"weights": digest(weights), "all": None, "classes": {"cat": None, "dog": None}}
    write_points(path, nothing)
    assert score_thresholds(weights, CLASSES) == [DEFAULT_SCORE] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "weights"),
        ({"weights": "w", "all": {"score": 2}, "classes": {}}, "all: score is 2"),
        ({"weights": "w", "all": None, "classes": {"cat": {}}}, "cat"),
        ({"weights": "w", "all": {"score": "1"}, "classes": {}}, "all: score is '1'"),
        ({"weights": "w", "all": {"score": True}, "classes": {}}, "all: score is True"),
    ],
)
def test_an_invalid_file_is_one_line(weights: Path, tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = write_points(tmp_path / "predictions/operating_point.json", content)
    with pytest.raises(PipelineError) as caught:
        score_thresholds(weights, CLASSES)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_those_of_predictions(weights: Path, tmp_path: Path) -> None:
    path = write_points(tmp_path / "predictions/operating_point.json", {"weights": digest(weights)} | POINTS)
    assert thresholds_of_predictions(tmp_path, CLASSES) == [0.2, 0.3]
    assert thresholds_of_predictions(tmp_path, CLASSES, 0.7) == [0.7, 0.7]
    weights.unlink()  # somebody pulled the predictions only
    assert thresholds_of_predictions(tmp_path, CLASSES) == [0.2, 0.3]
    weights.write_bytes(b"other")
    with pytest.raises(PipelineError, match="chosen for another detector"):
        thresholds_of_predictions(tmp_path, CLASSES)
    path.unlink()
    with pytest.raises(PipelineError, match="not there yet"):
        thresholds_of_predictions(tmp_path, CLASSES)
    assert thresholds_of_predictions(tmp_path, CLASSES, 0.7) == [0.7, 0.7]


def test_descriptions() -> None:
    assert describe([0.4, 0.4]) == "0.4"
    assert describe([0.312, 0.4, 0.259]) == "0.26 to 0.4, by class"
