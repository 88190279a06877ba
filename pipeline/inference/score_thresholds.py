"""The score thresholds at which a detector is used: those that evaluation chose for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.data.detections import read_bytes
from pipeline.errors import PipelineError, describe_record_error
from pipeline.files import digest

DEFAULT = 0.4  # of a detector that hasn't been evaluated
FILE_NAME = "operating_point.json"


@dataclass(frozen=True)
class _Point:
    score: Annotated[float, Field(strict=True, ge=0, le=1)]


@dataclass(frozen=True)
class OperatingPoints:
    """What is used of predictions/operating_point.json."""

    weights: str
    all: _Point | None
    classes: dict[str, _Point | None]
    views: dict[str, Any] | None = None  # fields of `Views`, checked in `recorded_views`

    def thresholds(self, class_names: Sequence[str]) -> list[float]:
        default = self.all.score if self.all else DEFAULT
        return [point.score if (point := self.classes.get(name)) else default for name in class_names]


_ADAPTER = TypeAdapter(OperatingPoints)


def score_thresholds(weights: Path, class_names: Sequence[str], score: float | None = None) -> list[float]:
    """The lowest score of a detection of each class, in the order of `class_names`.

    They are read from `operating_point.json` beside the weights, or in the folder predictions of their project, if it
    was written for these weights. A class for which evaluation found no threshold has that for all classes.

    Args:
        weights: the file of the detector.
        score: overrides the file, for every class.

    Raises:
        PipelineError: the file is invalid.
    """
    if score is not None:
        return [score] * len(class_names)
    found = find_operating_points(weights)
    return found[1].thresholds(class_names) if found else [DEFAULT] * len(class_names)


def find_operating_points(weights: Path) -> tuple[Path, OperatingPoints] | None:
    """The file `operating_point.json` that was written for these weights, and its content; None if there is none.

    Raises:
        PipelineError: the file is invalid.
    """
    beside = weights.resolve().parent / FILE_NAME
    for path in (beside, beside.parent.parent / "predictions" / FILE_NAME):
        if path.is_file():
            points = _read(path, "give --score")
            if points.weights == digest(weights):
                return path, points
    return None


def thresholds_of_predictions(project: Path, class_names: Sequence[str], score: float | None = None) -> list[float]:
    """The lowest score of a detection of each class, for the detections in the folder predictions of a project.

    Args:
        class_names: in the order of the thresholds that are returned.
        score: overrides predictions/operating_point.json, for every class.

    Raises:
        PipelineError: the file is missing, invalid, or of another detector than the project's.
    """
    if score is not None:
        return [score] * len(class_names)
    path, weights = project / "predictions" / FILE_NAME, project / "models/detector.safetensors"
    if not path.is_file():
        raise PipelineError(f"{path}: not there yet; run `dvc repro evaluate`, or set inspect.score_threshold")
    points = _read(path, "set inspect.score_threshold")
    # The detector may be absent where somebody pulled the predictions only.
    if weights.is_file() and points.weights != digest(weights):
        raise PipelineError(
            f"{path}: chosen for another detector than {weights}; run `dvc repro evaluate`, or set "
            "inspect.score_threshold"
        )
    return points.thresholds(class_names)


def describe(thresholds: Sequence[float]) -> str:
    """`0.4`, or `0.31 to 0.52, by class`."""
    low, high = (f"{score:.2g}" for score in (min(thresholds), max(thresholds)))
    return low if low == high else f"{low} to {high}, by class"


def _read(path: Path, override: str) -> OperatingPoints:
    try:
        return _ADAPTER.validate_json(read_bytes(path))
    except ValidationError as error:
        remedy = f"run `dvc repro -f evaluate`, or {override}"
        raise PipelineError(f"{path}: {describe_record_error(error)}; {remedy}") from None
