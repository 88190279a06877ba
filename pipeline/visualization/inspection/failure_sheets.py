"""Contact sheets of the worst errors of a detector, one kind of error a sheet, and a page that lists the sheets."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import AnnotationSet
from pipeline.errors import count_noun
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.files import write_text
from pipeline.inference.score_thresholds import describe
from pipeline.visualization.contact_sheets import contact_sheet
from pipeline.visualization.inspection.cases import KINDS, LEGEND, SIDE, Case, CasePictures, Kind, worst_first
from pipeline.visualization.inspection.pictures import Picture

COLUMNS, ROWS = 4, 6  # images across, images down; more images go to further sheets


@dataclass(frozen=True)
class Group:
    """The worst images of a kind of error."""

    name: str  # in KINDS
    title: str
    images: int  # with such errors, in the split
    errors: int
    pictures: tuple[Picture, ...]  # of the first sheet, worst first


def write(
    folder: Path,
    truth: AnnotationSet,
    errors: Mapping[int, ImageErrors],
    image_folder: Path,
    *,
    max_images: int,
    thresholds: Sequence[float],
) -> list[Group]:
    """Writes the sheets as JPEG files and index.html into a new folder.

    Args:
        errors: the errors of each image, by image id.
        image_folder: the folder that the file names in `truth` are relative to.
        max_images: the number of images of each kind of error to show.
        thresholds: the lowest score of a detection of each class, which the page mentions.

    Returns:
        The worst images of each kind, for another page.

    Raises:
        PipelineError: an image is missing or can't be decoded.
    """
    folder.mkdir()
    pictures, groups, sections = CasePictures(truth, errors, image_folder), [], []
    for name, kind in KINDS.items():
        ranked = worst_first(truth, errors, kind)
        total = sum(len(kind.errors(found)) for found in errors.values())
        files: list[str] = []
        first: list[Picture] = []
        drawn = (pictures.draw(image, kind) for image in ranked[:max_images])
        for sheet in _batches(drawn):  # not all at once: each picture takes 700 KB of memory
            files.append(f"{name}-{len(files) + 1}.jpg" if files else f"{name}.jpg")
            _save_sheet(sheet, kind, folder / files[-1])
            first = first or [_picture(case) for case in sheet]
        groups.append(Group(name, kind.title, len(ranked), total, tuple(first)))
        sections.append(_section(kind.title, len(ranked), files))
    write_text(folder / "index.html", _page(thresholds, pictures.labels.legend, sections))
    return groups


def _batches(cases: Iterator[Case]) -> Iterator[list[Case]]:
    batch = []
    for case in cases:
        batch.append(case)
        if len(batch) == COLUMNS * ROWS:
            yield batch
            batch = []
    if batch:
        yield batch


def _save_sheet(cases: Sequence[Case], kind: Kind, path: Path) -> None:
    tiles = [(case.picture, _caption(case, kind)) for case in cases]
    contact_sheet(tiles, COLUMNS, SIDE, title=f"{kind.title} ({LEGEND})").save(path, quality=88)


def _caption(case: Case, kind: Kind) -> str:
    count = count_noun(len(case.errors), kind.singular, kind.plural)
    return f"{PurePosixPath(case.image.file_name).name}: {count}" + (", enlarged" if case.view else "")


def _picture(case: Case) -> Picture:
    return Picture.of(case.picture, case.image.file_name, case.errors, case.view)


def _section(title: str, images: int, files: list[str]) -> str:
    pictures = "".join(f'\n<a href="{file}"><img src="{file}" alt="{html.escape(title)}"></a>' for file in files)
    return f"<h2>{html.escape(title)}</h2>\n<p>{count_noun(images, 'image')} in total.</p>{pictures}"


def _page(thresholds: Sequence[float], legend: Mapping[str, str], sections: Sequence[str]) -> str:
    names = ", ".join(f"{label}: <bdi>{html.escape(name)}</bdi>" for label, name in legend.items())
    numbers = f"<p>Numbers in the pictures stand for {names}.</p>\n" if names else ""
    return _PAGE.format(legend=LEGEND, scores=describe(thresholds), body=numbers + "\n".join(sections))


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Failures</title>
<style>body {{ font-family: sans-serif; margin: 2em }} img {{ max-width: 100% }}</style>
<h1>Failures</h1>
<p>Worst first; {legend}. Detections with a score of at least {scores}.</p>
<p>To browse all of them in the FiftyOne App, run <code>fcos app</code>.</p>
{body}
</html>
"""
