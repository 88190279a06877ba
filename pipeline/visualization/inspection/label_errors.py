"""Candidates for errors in the labels, as `fcos cross-check` writes them, drawn for a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from pipeline.analysis import cross_check_files
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.errors import PipelineError, describe_record_error
from pipeline.visualization.inspection import marks
from pipeline.visualization.inspection.cases import (
    DETECTION_COLOR,
    SIDE,
    TRUTH_COLOR,
    ClassLabels,
    describe_view,
    isolate,
    open_stored_image,
)
from pipeline.visualization.inspection.marks import Mark
from pipeline.visualization.inspection.pictures import Picture

_WORDS = {
    "missing": "without a label: {proposed}",
    "spurious": "nothing there: {labeled}",
    "wrong_class": "labeled {labeled}, looks like {proposed}",
    "poor_box": "poor box of {labeled}",
}


@checked_dataclass(frozen=True)
class Candidate:
    """A label that may be wrong."""

    image_id: int
    file_name: str
    kind: Literal["missing", "spurious", "wrong_class", "poor_box"]
    rank_score: float
    annotation_id: int | None
    bbox: tuple[float, float, float, float] | None  # proposed: x, y, width, height in pixels
    category: str | None  # proposed
    split: str


@dataclass(frozen=True)
class Candidates:
    """How many candidates there are, by kind, and the pictures of the first ones."""

    counts: Mapping[str, int]
    pictures: tuple[Picture, ...]


def read(path: Path) -> list[Candidate]:
    """The candidates of a file, best first; none without the file.

    Raises:
        PipelineError: the file is invalid.
    """
    if not path.is_file():
        return []
    try:
        return TypeAdapter(list[Candidate]).validate_json(path.read_bytes(), strict=True)
    except ValidationError as error:
        remedy = "remove the file, or make it again with `fcos cross-check`"
        raise PipelineError(f"{path}: {describe_record_error(error)}; {remedy}") from None


def draw(home: Path, image_folder: Path, count: int) -> Candidates:
    """The candidates of reports/label_errors.json, and pictures of the first `count` whose image is still there.

    There are none if the labels have changed since: their ids are those of other labels.

    Raises:
        PipelineError: a file is invalid, or an image can't be decoded.
    """
    found = read(home / "reports/label_errors.json") if cross_check_files.are_current(home) else []
    splits = cache(lambda split: annotations.read(home / f"data/unified/{split}.json"))
    pictures: list[Picture] = []
    for candidate in found:
        truth = splits(candidate.split) if (home / f"data/unified/{candidate.split}.json").is_file() else None
        picture = _draw(candidate, truth, image_folder) if truth else None
        pictures += [picture] if picture else []
        if len(pictures) == count:
            break
    counts = {kind: sum(candidate.kind == kind for candidate in found) for kind in _WORDS}
    return Candidates({kind: number for kind, number in counts.items() if number}, tuple(pictures))


def _draw(candidate: Candidate, truth: AnnotationSet, image_folder: Path) -> Picture | None:
    """None if the image or the label is gone since the candidates were found: it was corrected."""
    image = next((image for image in truth.images if image.file_name == candidate.file_name), None)
    in_image = [item for item in truth.annotations if image and item.image_id == image.id]
    labeled = next((item for item in in_image if item.id == candidate.annotation_id), None)
    if image is None or (labeled is None and candidate.annotation_id is not None):
        return None
    found = _marks(candidate, labeled, ClassLabels(truth.categories))
    if not found:
        return None
    others = [
        Mark(xywh_to_xyxy(item.bbox), TRUTH_COLOR, in_question=False, dashed=True)
        for item in in_image
        if item is not labeled
    ]
    view = marks.choose_view((image.width, image.height), found[0].box)
    picture = marks.draw_view(open_stored_image(image_folder, image), view, [*found, *others], SIDE)
    names = {category.id: category.name for category in truth.categories}
    words = _WORDS[candidate.kind].format(
        labeled=isolate(names[labeled.category_id]) if labeled else "?",
        proposed=isolate(candidate.category) if candidate.category else "another class",
    )
    return Picture.of(picture, image.file_name, [words], describe_view(image, view))


def _marks(candidate: Candidate, labeled: Annotation | None, classes: ClassLabels) -> list[Mark]:
    """The proposed box, and the labeled one."""
    found = []
    # A proposed class has the label's box, whose dashes show both colors.
    box = candidate.bbox or (labeled.bbox if labeled and candidate.category else None)
    if box:
        ids = {category.name: category.id for category in classes.categories}
        name = candidate.category or ""
        label = classes.by_id[ids[name]] if name in ids else name
        found.append(Mark(xywh_to_xyxy(box), DETECTION_COLOR, label))
    if labeled:
        label = classes.by_id[labeled.category_id]
        found.append(Mark(xywh_to_xyxy(labeled.bbox), TRUTH_COLOR, label, dashed=True))
    return found[::-1]  # the first one is drawn over the others
