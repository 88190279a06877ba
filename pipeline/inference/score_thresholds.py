"""The score thresholds at which a detector is used: those that evaluation chose for it."""

from collections.abc import Sequence
from pathlib import Path

from fcos import operating_point
from fcos.operating_point import DEFAULT_SCORE, FILE_NAME, OperatingPoint
from pipeline.errors import PipelineError
from pipeline.files import digest


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
    found = find_operating_point(weights)
    return found[1].thresholds(class_names) if found else [DEFAULT_SCORE] * len(class_names)


def find_operating_point(weights: Path, otherwise: str = "give --score") -> tuple[Path, OperatingPoint] | None:
    """The file `operating_point.json` that was written for these weights, and its content; None if there is none.

    Args:
        otherwise: what to do about an invalid file, besides evaluating again, for the message.

    Raises:
        PipelineError: the file is invalid.
    """
    try:
        return operating_point.find(weights)
    except ValueError as error:
        raise PipelineError(f"{error}; run `dvc repro -f evaluate`, or {otherwise}") from None


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
    try:
        point = operating_point.read(path)
    except ValueError as error:
        raise PipelineError(f"{error}; run `dvc repro -f evaluate`, or set inspect.score_threshold") from None
    # The detector may be absent where somebody pulled the predictions only.
    if weights.is_file() and point.weights != digest(weights):
        raise PipelineError(
            f"{path}: chosen for another detector than {weights}; run `dvc repro evaluate`, or set "
            "inspect.score_threshold"
        )
    return point.thresholds(class_names)


def describe(thresholds: Sequence[float]) -> str:
    """`0.4`, or `0.31 to 0.52, by class`."""
    low, high = (f"{score:.2g}" for score in (min(thresholds), max(thresholds)))
    return low if low == high else f"{low} to {high}, by class"
