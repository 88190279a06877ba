"""The score thresholds at which a saved detector is used: those that evaluation chose for it."""

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.data.detections import read_bytes
from pipeline.errors import PipelineError, describe_record_error
from pipeline.files import digest
from pipeline.inference.saved_detector import SavedDetector

DEFAULT = 0.4  # of a detector that hasn't been evaluated


@dataclass(frozen=True)
class _Point:
    score: Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class _OperatingPoints:
    """What is used of predictions/operating_point.json."""

    weights: str
    all: _Point | None
    classes: dict[str, _Point | None]


_ADAPTER = TypeAdapter(_OperatingPoints)


def score_thresholds(weights: Path, detector: SavedDetector, score: float | None = None) -> torch.Tensor:
    """The lowest score of a detection of each class [K].

    They are read from `operating_point.json` beside the weights, or in the folder predictions of their project, if it
    was written for these weights. A class for which evaluation found no threshold has that for all classes.

    Args:
        weights: the file that the detector was loaded from.
        score: overrides the file, for every class.

    Raises:
        PipelineError: the file is invalid.
    """
    points = None if score is not None else _read(weights)
    default = points.all.score if points and points.all else DEFAULT if score is None else score
    chosen = points.classes if points else {}
    return torch.tensor(
        [point.score if (point := chosen.get(name)) else default for name in detector.class_names], dtype=torch.float64
    )


def _read(weights: Path) -> _OperatingPoints | None:
    """The operating points for these weights, or None if there are none."""
    beside = weights.resolve().parent / "operating_point.json"
    for path in (beside, beside.parent.parent / "predictions" / beside.name):
        if path.is_file():
            try:
                points = _ADAPTER.validate_json(read_bytes(path))
            except ValidationError as error:
                remedy = "run `dvc repro evaluate`, or give --score"
                raise PipelineError(f"{path}: {describe_record_error(error)}; {remedy}") from None
            if points.weights == digest(weights):
                return points
    return None
