"""Contact sheets of the worst errors of a detector, one kind of error a sheet, and a page that lists the sheets."""

import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import PIL.Image

from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.data.images import open_image
from pipeline.errors import PipelineError, count_noun
from pipeline.evaluation.error_kinds import ImageErrors, Verdict
from pipeline.files import write_text
from pipeline.inference.score_thresholds import describe
from pipeline.visualization.boxes import Box, Color, draw_boxes
from pipeline.visualization.contact_sheets import contact_sheet

TILE_SIZE, COLUMNS, ROWS = 480, 4, 6  # pixels, images across, images down; more images go to further sheets
TRUTH_COLOR: Color = (60, 200, 75)
DETECTION_COLOR: Color = (245, 130, 48)
DIMMED = 0.55  # brightness of boxes that are not the error in question
LEGEND = "green: ground truth, orange: detections; the error in question is labeled"


@dataclass(frozen=True)
class Sheet:
    """One kind of error."""

    title: str
    cases: Callable[[ImageErrors], Sequence[Verdict | Annotation]]  # the errors of this kind in an image


SHEETS = {
    "false_positives": Sheet("False positives on background, highest score first", lambda e: e.of("background")),
    "missed_objects": Sheet("Missed objects, largest first", lambda e: e.missed),
    "wrong_class": Sheet("Wrong class, highest score first", lambda e: e.of("wrong_class")),
    "poor_boxes": Sheet("Poor boxes, highest score first", lambda e: e.of("poor_box")),
    "duplicates": Sheet("Duplicates, highest score first", lambda e: e.of("duplicate")),
}


def write(
    folder: Path,
    truth: AnnotationSet,
    errors: dict[int, ImageErrors],
    image_folder: Path,
    *,
    max_images: int,
    thresholds: Sequence[float],
) -> None:
    """Writes the sheets as JPEG files and index.html into a new folder.

    Args:
        errors: the errors of each image, by image id.
        image_folder: the folder that the file names in `truth` are relative to.
        max_images: the number of images of each kind of error to show.
        thresholds: the lowest score of a detection of each class, which the page mentions.

    Raises:
        PipelineError: an image is missing or can't be decoded.
    """
    folder.mkdir()
    tiles = _Tiles(truth, errors, image_folder)
    sections = []
    for name, sheet in SHEETS.items():
        ranked = _worst_first(truth, errors, sheet)
        drawn = [tiles.draw(image, sheet) for image in ranked[:max_images]]
        files: list[str] = []
        for start in range(0, len(drawn), COLUMNS * ROWS):
            files.append(f"{name}-{len(files) + 1}.jpg" if files else f"{name}.jpg")
            page = drawn[start : start + COLUMNS * ROWS]
            contact_sheet(page, COLUMNS, TILE_SIZE, title=f"{sheet.title} ({LEGEND})").save(
                folder / files[-1], quality=88
            )
        sections.append(_section(sheet.title, len(ranked), files))
    write_text(
        folder / "index.html", _PAGE.format(legend=LEGEND, scores=describe(thresholds), body="\n".join(sections))
    )


def _worst_first(truth: AnnotationSet, errors: dict[int, ImageErrors], sheet: Sheet) -> list[Image]:
    """The images with errors of this kind, worst first; images with equal errors keep the order of the split."""
    severity = {image: max(map(_severity, sheet.cases(found)), default=None) for image, found in errors.items()}
    ranked = [(-worst, image) for image in truth.images if (worst := severity[image.id]) is not None]
    return [image for _, image in sorted(ranked, key=lambda pair: pair[0])]


def _severity(case: Verdict | Annotation) -> float:
    """The score of a wrong detection, or the area of a missed object."""
    return case.detection.score if isinstance(case, Verdict) else case.bbox[2] * case.bbox[3]


@dataclass(frozen=True)
class _Mark:
    bbox: tuple[float, float, float, float]  # x, y, width, height in pixels of the stored image
    color: Color
    label: str  # empty if the box is not part of the error in question


class _Tiles:
    """Draws images with their ground truth and detections."""

    def __init__(self, truth: AnnotationSet, errors: dict[int, ImageErrors], image_folder: Path) -> None:
        self.annotations, self.errors, self.image_folder = truth.by_image(), errors, image_folder
        self.class_names = {category.id: category.name for category in truth.categories}

    def draw(self, image: Image, sheet: Sheet) -> tuple[PIL.Image.Image, str]:
        """The image with all its boxes, those of the sheet's errors bright and labeled; and its caption."""
        picture = _open(self.image_folder / image.file_name, (image.width, image.height))
        scale = TILE_SIZE / max(picture.size)
        picture = picture.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        marks = sorted(self._marks(image, sheet), key=lambda mark: bool(mark.label))  # labeled boxes on top
        picture = draw_boxes(
            picture,
            [_scaled(xywh_to_xyxy(mark.bbox), scale) for mark in marks],
            [mark.label for mark in marks],
            [mark.color if mark.label else _dimmed(mark.color) for mark in marks],
        )
        count = len(sheet.cases(self.errors[image.id]))
        return picture, f"{PurePosixPath(image.file_name).name}: {count}"

    def _marks(self, image: Image, sheet: Sheet) -> list[_Mark]:
        cases = sheet.cases(self.errors[image.id])
        involved = [case.annotation if isinstance(case, Verdict) else case for case in cases]
        marks = [
            _Mark(item.bbox, TRUTH_COLOR, self.class_names[item.category_id] if item in involved else "")
            for item in self.annotations[image.id]
        ]
        for verdict in self.errors[image.id].verdicts:
            detection = verdict.detection
            label = f"{self.class_names[detection.category_id]} {detection.score:.2f}" if verdict in cases else ""
            marks.append(_Mark(detection.bbox, DETECTION_COLOR, label))
        return marks


def _open(path: Path, size: tuple[int, int]) -> PIL.Image.Image:
    try:
        return open_image(path, size)
    except PipelineError as error:
        raise PipelineError(f"{error}; run `dvc repro -f download`") from None


def _scaled(box: Box, scale: float) -> Box:
    x1, y1, x2, y2 = box
    return x1 * scale, y1 * scale, x2 * scale, y2 * scale


def _dimmed(color: Color) -> Color:
    red, green, blue = (round(channel * DIMMED) for channel in color)
    return red, green, blue


def _section(title: str, images: int, files: list[str]) -> str:
    pictures = "".join(f'\n<a href="{file}"><img src="{file}" alt="{html.escape(title)}"></a>' for file in files)
    return f"<h2>{html.escape(title)}</h2>\n<p>{count_noun(images, 'image')} in total.</p>{pictures}"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Failures</title>
<style>body {{ font-family: sans-serif; margin: 2em }} img {{ max-width: 100% }}</style>
<h1>Failures</h1>
<p>Worst first; {legend}. Detections with a score of at least {scores}.</p>
<p>To browse all of them in the FiftyOne App, run <code>fcos app</code>.</p>
{body}
</html>
"""
