"""`suggested.json`: what `fcos suggest` has chosen, with the detector's boxes and scores, for FiftyOne's App."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from pipeline.errors import PipelineError, describe_record_error
from pipeline.files import write_json

NAME = "suggested.json"


@dataclass(frozen=True)
class SuggestedBox:
    """A box that the detector proposes."""

    label: str
    score: float
    bbox: tuple[float, float, float, float]  # x, y, width, height in pixels


@dataclass(frozen=True)
class SuggestedImage:
    """An image to label; the fields are those of `pipeline.analysis.suggestions.Suggestion`."""

    file: str  # relative to the folder
    width: Annotated[int, Field(gt=0)]  # pixels
    height: Annotated[int, Field(gt=0)]
    uncertainty: float
    distance: float
    detections: tuple[SuggestedBox, ...]


@dataclass(frozen=True)
class SuggestedImages:
    """The images to label, in the order in which to label them."""

    folder: str  # that the images are in, absolute
    images: tuple[SuggestedImage, ...]


def write(folder: Path, images: Sequence[SuggestedImage], path: Path) -> None:
    write_json(path, asdict(SuggestedImages(os.path.normpath(folder.absolute()), tuple(images))))


def read(path: Path) -> SuggestedImages:
    """Reads the file, and checks that the images are still there.

    Raises:
        PipelineError: the file or an image is missing, or the file is invalid.
    """
    remedy = "run `fcos suggest` with another --out"
    if not path.is_file():
        raise PipelineError(f"{path}: not there; give the folder that `fcos suggest` has written, its --out")
    try:
        found = TypeAdapter(SuggestedImages).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        raise PipelineError(f"{path}: {describe_record_error(error)}; {remedy}") from None
    for image in found.images:
        if not (file := Path(found.folder, image.file)).is_file():
            raise PipelineError(f"{path}: {file} is no longer there; {remedy}")
    return found
