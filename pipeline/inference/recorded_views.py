"""The views of an image in which `fcos predict` detects objects: those of the detector's evaluation, or its options."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import PipelineError, describe_validation_error
from pipeline.inference.score_thresholds import find_operating_point
from pipeline.inference.views import Views

_ADAPTER = TypeAdapter(Views)


def choose_views(weights: Path, *, plain: bool, score: float | None, **options: Any) -> tuple[Views, str | None]:
    """The views for prediction, and a note for the person who predicts.

    They are the recorded ones, since score thresholds fit the views with which they were chosen, unless options differ.

    Args:
        plain: replace the recorded views by a single one.
        score: the threshold, if it is not that of the operating points.
        options: fields of Views that a command's options override; None keeps the value.

    Raises:
        PipelineError: the file with the operating points is invalid, and no score is given.
    """
    try:
        recorded = recorded_views(weights)
    except PipelineError:
        if score is None:
            raise
        recorded = None  # a score makes the file unnecessary
    given = {name: value for name, value in options.items() if value is not None}
    views = replace(recorded if recorded and not plain else Views(), **given)
    if recorded is None or (views.is_like(recorded) and recorded.is_like(Views())):
        return views, None
    if views.is_like(recorded):
        return (
            views,
            f"objects are detected as in the evaluation: {views.describe()}; --plain detects once in each image",
        )
    if score is not None:
        return views, None
    return views, (
        f"the score thresholds were chosen with other views of each image ({recorded.describe()}) than these "
        f"({views.describe()}); --score sets a threshold"
    )


def recorded_views(weights: Path, otherwise: str = "give --score") -> Views | None:
    """The views with which the operating points of a detector were chosen; None if it hasn't been evaluated.

    Args:
        otherwise: as for `find_operating_point`.

    Raises:
        PipelineError: the file with the operating points is invalid.
    """
    found = find_operating_point(weights, otherwise)
    if found is None:
        return None
    path, point = found
    try:
        return _ADAPTER.validate_python(point.views or {})
    except ValidationError as error:
        problem = describe_validation_error(error, lambda _: (), section=("views",))
        raise PipelineError(f"{path}: {problem}; run `dvc repro -f evaluate`, or {otherwise}") from None
