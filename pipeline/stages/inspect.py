"""Shows what the detector gets wrong: contact sheets of the worst cases, and a FiftyOne dataset to browse.

Reads data/unified/<split>.json, predictions/<split>.json and data/raw/<dataset>/.
Writes reports/failures/ and metrics/inspect.json, fills FiftyOne's dataset, adds to the experiment's MLflow run.
"""

import html
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image as Pillow
from PIL import ImageOps

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Image
from pipeline.errors import PipelineError
from pipeline.evaluation import error_kinds as errors
from pipeline.evaluation.error_kinds import ImageErrors, Verdict
from pipeline.files import atomic_replace, digest, write_json, write_text
from pipeline.integrations import fiftyone, mlflow
from pipeline.params import Params
from pipeline.runner import run_stage
from pipeline.visualization.boxes import Box, Color, contact_sheet, draw
from pipeline.workspace import workspace

TILE, COLUMNS, ROWS = 480, 4, 6  # pixels, pictures across, pictures down: more go on further sheets
TRUTH: Color = (60, 200, 75)
DETECTION: Color = (245, 130, 48)
FAINT = 0.55  # how far the boxes beside the point are darkened
LEGEND = "green: objects, orange: detections; what is meant has a label"


@dataclass(frozen=True)
class Sheet:
    """One kind of error: what belongs to it in an image, and how bad that is."""

    title: str
    cases: Callable[[ImageErrors], Sequence[Verdict | Annotation]]


SHEETS = {
    "false_positives": Sheet("False positives: the most certain detections of nothing", lambda e: e.of("background")),
    "missed_objects": Sheet("Missed objects: the largest", lambda e: e.missed),
    "wrong_class": Sheet("Wrong class: the most certain", lambda e: e.of("wrong_class")),
    "poor_boxes": Sheet("Poor boxes: the most certain", lambda e: e.of("poor_box")),
    "duplicates": Sheet("Duplicates: the most certain", lambda e: e.of("duplicate")),
}


def run(params: Params) -> None:
    split, home = f"{params.evaluate.split}.json", workspace()
    predictions = home / "predictions" / split
    truth = annotations.read(home / "data/unified" / split)
    judged = errors.analyze(
        truth,
        results.read(predictions, truth),
        score_threshold=params.inspect.score_threshold,
        iou_threshold=params.inspect.iou_threshold,
    )
    report, numbers = home / "reports/failures", home / "metrics/inspect.json"
    with atomic_replace(report) as folder:
        _write_sheets(folder, truth, judged, home / "data/raw" / params.dataset, params.inspect.max_images)
    summary = {"errors": count(judged), "views": fiftyone.refresh(fiftyone.dataset_spec(params))}
    write_json(numbers, summary)
    with mlflow.inspect_run(params, digest(predictions)) as mlflow_run:
        mlflow_run.log_metrics(
            {f"inspect/{kind}/{name}": n for kind, group in summary.items() for name, n in group.items()}
        )
        mlflow_run.log_artifacts(report)
        mlflow_run.mark_finished(digest(numbers))


def count(judged: dict[int, ImageErrors]) -> dict[str, int]:
    """Detections of each kind, and missed objects, over all images."""
    found = Counter(verdict.kind for image in judged.values() for verdict in image.verdicts)
    return {kind: found[kind] for kind in errors.KINDS} | {"missed": sum(len(e.missed) for e in judged.values())}


def _write_sheets(folder: Path, truth: AnnotationSet, judged: dict[int, ImageErrors], images: Path, worst: int) -> None:
    folder.mkdir()
    objects, names = truth.by_image(), {category.id: category.name for category in truth.categories}
    sections = []
    for name, sheet in SHEETS.items():
        chosen = _worst(truth, judged, sheet)
        tiles = [_tile(image, objects[image.id], names, judged[image.id], sheet, images) for image in chosen[:worst]]
        pages = [tiles[start : start + COLUMNS * ROWS] for start in range(0, len(tiles), COLUMNS * ROWS)]
        files = [f"{name}.jpg" if number == 0 else f"{name}-{number + 1}.jpg" for number in range(len(pages))]
        for file, page in zip(files, pages, strict=True):
            picture = contact_sheet(page, COLUMNS, TILE, title=f"{sheet.title} ({LEGEND})")
            picture.save(folder / file, quality=88)
        sections.append(_section(sheet.title, len(chosen), files))
    write_text(folder / "index.html", _PAGE.format(legend=LEGEND, body="\n".join(sections)))


def _worst(truth: AnnotationSet, judged: dict[int, ImageErrors], sheet: Sheet) -> list[Image]:
    """The images with such errors, the worst first; equals stay in the split's order."""
    badness = {image: [_badness(case) for case in sheet.cases(found)] for image, found in judged.items()}
    wrong = [image for image in truth.images if badness[image.id]]
    return sorted(wrong, key=lambda image: -max(badness[image.id]))


def _badness(case: Verdict | Annotation) -> float:
    """Score of a wrong detection; area of a missed object."""
    return case.detection.score if isinstance(case, Verdict) else case.bbox[2] * case.bbox[3]


def _tile(
    image: Image,
    objects: list[Annotation],
    names: dict[int, str],
    judged: ImageErrors,
    sheet: Sheet,
    images: Path,
) -> tuple[Pillow.Image, str]:
    """The image with all its boxes, those that the sheet is about labeled; and its caption."""
    cases = sheet.cases(judged)
    focus = [case.annotation if isinstance(case, Verdict) else case for case in cases]
    marks = []
    for item in objects:
        marks.append((item.bbox, names[item.category_id] if item in focus else "", TRUTH))
    for verdict in judged.verdicts:
        found = verdict.detection
        label = f"{names[found.category_id]} {found.score:.2f}" if verdict in cases else ""
        marks.append((found.bbox, label, DETECTION))
    picture = _open(images / image.file_name, image)
    factor = TILE / max(picture.size)
    picture = picture.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    marks.sort(key=lambda mark: bool(mark[1]))  # the labeled ones on top
    colors = [color if label else _faint(color) for _, label, color in marks]
    boxes = [_corners(bbox, factor) for bbox, _, _ in marks]
    return draw(
        picture, boxes, [label for _, label, _ in marks], colors
    ), f"{PurePosixPath(image.file_name).name}: {len(cases)}"


def _open(path: Path, image: Image) -> Pillow.Image:
    try:
        picture: Pillow.Image = Pillow.open(path)
        if picture.size != (image.width, image.height):
            picture = ImageOps.exif_transpose(picture)
        return picture.convert("RGB")
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path}: can't be read: {error}; run `dvc repro -f download`") from None


def _corners(bbox: tuple[float, float, float, float], factor: float) -> Box:
    x, y, width, height = bbox
    return x * factor, y * factor, (x + width) * factor, (y + height) * factor


def _faint(color: Color) -> Color:
    red, green, blue = (round(part * FAINT) for part in color)
    return red, green, blue


def _section(title: str, images: int, files: list[str]) -> str:
    pictures = "".join(f'\n<a href="{file}"><img src="{file}" alt="{html.escape(title)}"></a>' for file in files)
    return f"<h2>{html.escape(title)}</h2>\n<p>{images} images in all.</p>{pictures}"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Failures</title>
<style>body {{ font-family: sans-serif; margin: 2em }} img {{ max-width: 100% }}</style>
<h1>Failures</h1>
<p>Worst first; {legend}. The App shows them all: <code>fcos app</code>.</p>
{body}
</html>
"""


if __name__ == "__main__":
    run_stage("inspect", run)
