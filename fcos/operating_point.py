"""The operating point of a detector: the score thresholds that its evaluation chose, in a JSON file.

The file is operating_point.json beside the weights, or in the folder predictions beside the folder of the weights. It
names the weights by their SHA-256, so that it is never used for other ones.
"""

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fcos import onnx_files

DEFAULT_SCORE = 0.4  # lowest score of a detection, of a detector that hasn't been evaluated
FILE_NAME = "operating_point.json"


@dataclass(frozen=True)
class OperatingPoint:
    """What is used of the file."""

    weights: str  # SHA-256 of the file of weights
    all: float | None  # the threshold for all classes together; None: no detection was correct
    classes: Mapping[str, float | None]  # the threshold of each class
    views: Any = None  # the views of each image in evaluation, as in the file; None: not recorded
    postprocess: Any = None  # the post-processing of evaluation, as in the file; None: not recorded

    def thresholds(self, class_names: Sequence[str]) -> list[float]:
        """The lowest score of a detection of each class. Classes without a threshold have that for all classes."""
        default = DEFAULT_SCORE if self.all is None else self.all
        return [default if (score := self.classes.get(name)) is None else score for name in class_names]


def find(weights: str | Path) -> tuple[Path, OperatingPoint] | None:
    """The file that was written for these weights, and its content; None if there is none.

    An ONNX file contains its operating point.

    Raises:
        ValueError: the file is invalid; one line with the file and the problem.
    """
    weights = Path(weights)
    if weights.suffix == onnx_files.SUFFIX:
        return _read_onnx(weights)
    # The weights may be a link into DVC's cache, or a link to a project's weights.
    for folder in dict.fromkeys((weights.parent.resolve(), weights.resolve().parent)):
        for path in (folder / FILE_NAME, folder.parent / "predictions" / FILE_NAME):
            if path.is_file():
                point = read(path)
                with weights.open("rb") as file:
                    if point.weights == hashlib.file_digest(file, "sha256").hexdigest():
                        return path, point
    return None


def _read_onnx(path: Path) -> tuple[Path, OperatingPoint] | None:
    content = onnx_files.read_metadata(path).get("operating_point")
    try:
        return None if content is None else (path, _parse(json.loads(content)))
    except ValueError as error:
        raise ValueError(f"{path}: operating_point: {error}") from None


def read(path: Path) -> OperatingPoint:
    """Reads the file.

    Raises:
        ValueError: as for `find`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {str(error).splitlines()[0]}") from None
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {(error.strerror or 'unknown reason').lower()}") from None
    try:
        return _parse(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _parse(content: Any) -> OperatingPoint:
    if not isinstance(content, Mapping):
        raise ValueError(f"it is {reprlib.repr(content)}, but should have the keys weights, all, classes")
    for key in ("weights", "all", "classes"):
        if key not in content:
            raise ValueError(f"{key} is missing")
    weights, classes = content["weights"], content["classes"]
    if not isinstance(weights, str):
        raise ValueError(f"weights is {reprlib.repr(weights)}, but should be a text")
    if not isinstance(classes, Mapping):
        raise ValueError(f"classes is {reprlib.repr(classes)}, but should have a key for each class")
    scores = {name: _score(point, f"classes: {name}") for name, point in classes.items()}
    return OperatingPoint(
        weights, _score(content["all"], "all"), scores, content.get("views"), content.get("postprocess")
    )


def _score(point: Any, key: str) -> float | None:
    if point is None:
        return None
    if not isinstance(point, Mapping) or "score" not in point:
        raise ValueError(f"{key}: score is missing")
    score = point["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not 0 <= score <= 1:
        raise ValueError(f"{key}: score is {reprlib.repr(score)}, but should be a number from 0 to 1")
    return float(score)
