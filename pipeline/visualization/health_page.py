"""`fcos validate --html`: all about a data set on one page that needs nothing but itself."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.analysis import advice, statistics
from pipeline.analysis.findings import Finding, Health, Place, headline, notes, places, verdict
from pipeline.analysis.statistics import Histogram, Share
from pipeline.conversion import Survey
from pipeline.data.annotations import AnnotationSet
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.errors import PipelineError
from pipeline.files import write_text
from pipeline.params import Params
from pipeline.visualization import thumbnails as samples
from pipeline.visualization.thumbnails import Picture, Sample

_LISTED = 30  # examples of a problem,
_OPEN = 5  # of them at first sight
_PICTURED = 3  # of these, with a picture
_SIDE = 360  # pixels of such a picture
_MANY = 40  # classes from which on their pictures stand closely


@dataclass(frozen=True)
class Numbers:
    """What training will see of a split."""

    box_sizes: Histogram
    aspect_ratios: Histogram
    objects: Histogram
    image_sizes: list[Share]
    levels: list[Share]
    levels_note: str
    told: list[str]
    counted: str


def write(health: Health, raw: Path, name: str, params: Params, path: Path) -> None:
    """Writes the page, whole or not at all; the same data set always gives the same bytes.

    Args:
        raw: the data set's folder, unpacked.
        name: what to call it.
        params: of a training; for the input size, the pyramid and the assigner.

    Raises:
        PipelineError: nothing can be written there.
    """
    text = html(health, raw, name, params)
    try:
        write_text(path, text)
    except OSError as error:
        raise PipelineError(f"{path}: not written: {error.strerror or error}") from None


def html(health: Health, raw: Path, name: str, params: Params) -> str:
    """The page's text."""
    found = health.survey
    looked_at = _looked_at(found)
    drawn = _sampled(raw, looked_at) if looked_at else {}
    where = {problem.source for one in health.findings for problem in one.problems[:_LISTED]}
    seen = places(health.dataset, where)
    classes = _classes(found)
    content = {
        "name": name,
        "line": headline(found),
        "stops": not health.usable,
        "verdict": verdict(health),
        "facts": _facts(found),
        "splits": _splits(found),
        "problems": [_problem(one, raw, seen) for one in health.findings],
        "notes": [*notes(found), *health.obstacles],
        "size": "×".join(str(side) for side in params.train.size),
        "numbers": _numbers(found, params),
        "classes": classes,
        "pictured": {category for category, pictures in drawn.items() if pictures},
        "samples": [one | {"pictures": drawn[one["id"]]} for one in classes if drawn.get(one["id"])],
        "samples_note": _samples_note(drawn, classes),
        "rows": len(classes) <= _MANY,
    }
    # Names of classes and files are a stranger's: all is escaped but what the template itself says.
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return templates.get_template("health_page.html.jinja").render(page=content)


def _looked_at(found: Survey) -> AnnotationSet | None:
    """The split that pictures are of: the first that has any."""
    return next((split for split in found.splits.values() if split.annotations), None)


def _facts(found: Survey) -> list[tuple[str, str]]:
    splits = found.splits.values()
    return [
        ("format", found.format),
        ("images", f"{sum(len(split.images) for split in splits):,}"),
        ("objects", f"{sum(len(split.annotations) for split in splits):,}"),
        ("classes", f"{len(next(iter(splits)).categories):,}"),
    ]


def _splits(found: Survey) -> list[dict[str, Any]]:
    return [
        {"name": name, "source": found.sources[name], "numbers": _sums(split)} for name, split in found.splits.items()
    ]


def _sums(split: AnnotationSet) -> tuple[int, ...]:
    """Images, those without objects, objects, difficult ones, crowds."""
    objects, images = split.annotations, len(split.images)
    difficult, crowds = sum(one.difficult for one in objects), sum(one.iscrowd for one in objects)
    return images, images - len({one.image_id for one in objects}), len(objects), difficult, crowds


def _problem(finding: Finding, raw: Path, seen: Mapping[str, Place]) -> dict[str, Any]:
    listed = finding.problems[:_LISTED]
    shown = [problem.source for problem in listed if problem.source in seen]
    of_file = {seen[where].file: where for where in reversed(shown)}  # an image once, with its first example
    pictured = sorted(of_file.values(), key=shown.index)[:_PICTURED]
    pictures = samples.draw_all([_example(where, seen[where], raw) for where in pictured])
    return {
        "code": finding.code,
        "says": finding.says,
        "count": len(finding.problems),
        "does": finding.does,
        "tone": "bad" if finding.stops else "warn" if finding.changes else "",
        "choices": finding.choices,
        "entries": [str(problem) for problem in listed[:_OPEN]],
        "further": [str(problem) for problem in listed[_OPEN:]],
        "more": len(finding.problems) - len(listed),
        "pictures": [picture for picture in pictures if picture],
    }


def _example(where: str, place: Place, raw: Path) -> Sample:
    marked = (xywh_to_xyxy(place.box),) if place.box else ()
    return Sample(raw / place.file, marked, (), where, _SIDE)


def _numbers(found: Survey, params: Params) -> Numbers | None:
    """None where there is nothing to learn from."""
    train = found.splits["train"]
    if not train.annotations:
        return None
    val = found.splits.get("val", replace(train, images=(), annotations=()))
    now = advice.look(params, train, val, steps=-(-len(train.images) // params.train.batch_size))
    if not len(now.sides):
        return None
    return Numbers(
        box_sizes=statistics.box_sizes(now.sides),
        aspect_ratios=statistics.aspect_ratios(now.sides),
        objects=statistics.objects_per_image(train, difficult=params.train.include_difficult),
        image_sizes=statistics.image_sizes(now.shapes),
        levels=statistics.levels(now),
        levels_note=_levels_note(now),
        told=statistics.told(now),
        counted="difficult objects included"
        if params.train.include_difficult
        else "without crowds and difficult objects",
    )


def _levels_note(now: advice.Context) -> str:
    if now.found is None:
        return ""
    images, objects = now.found.images, now.found.objects["all"]
    where = ", at even distances in the list" if images < now.images else ""
    each = now.found.positives / objects
    return (
        f"The assignment was made for {objects:,} objects of {images:,} images{where}. Distances are from a location "
        f"to the object's farthest side; an object may be learned by several levels, {each:.1f} locations on average."
    )


def _classes(found: Survey) -> list[dict[str, Any]]:
    """Classes with their number of objects in each split, the commonest first."""
    counts = [Counter(one.category_id for one in split.annotations) for split in found.splits.values()]
    categories = next(iter(found.splits.values())).categories
    most = max(counts[0].values(), default=1)
    return [
        {
            "id": one.id,
            "name": one.name,
            "counts": [count[one.id] for count in counts],
            "share": counts[0][one.id] / most,
        }
        for one in sorted(categories, key=lambda one: -counts[0][one.id])
    ]


def _sampled(raw: Path, split: AnnotationSet) -> dict[int, list[Picture]]:
    """Pictures of each class by category id."""
    wanted = samples.of_classes(raw, split)
    drawn = iter(samples.draw_all([one for group in wanted.values() for one in group]))
    return {category: [one for one in (next(drawn) for _ in group) if one] for category, group in wanted.items()}


def _samples_note(drawn: dict[int, list[Picture]], classes: Sequence[dict[str, Any]]) -> str:
    note = "From a small object to a large one, by their share of the image. Yellow: the class; white: other classes."
    left_out = len(classes) - len(drawn)
    return note + (f" Classes without an object there, or too many to show: {left_out:,}." if left_out else "")
