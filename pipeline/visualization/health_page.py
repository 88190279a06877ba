"""`fcos validate --html`: everything about a data set on one self-contained page."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.analysis import statistics
from pipeline.analysis.advice import DATA_RULES
from pipeline.analysis.advice_context import Context, make_context
from pipeline.analysis.findings import Finding, Health, RecordLocation, headline, locate_records, notes, verdict
from pipeline.analysis.statistics import Bar, Histogram
from pipeline.conversion import Survey
from pipeline.data.annotations import AnnotationSet
from pipeline.data.boxes import xywh_to_xyxy
from pipeline.errors import count_noun
from pipeline.params import Params
from pipeline.visualization import pages
from pipeline.visualization.thumbnails import Thumbnail, ThumbnailSpec, class_thumbnails, draw_thumbnails

_MAX_LISTED = 30  # examples of each kind of problem
_MAX_OPEN = 5  # examples that are visible without a click
_MAX_PICTURES = 3  # examples with a picture
_PICTURE_SIDE = 360  # pixels
_MAX_ROWS = 40  # with more classes, their pictures are arranged in a grid


@dataclass(frozen=True)
class TrainingStatistics:
    """What training sees of the train split."""

    box_sizes: Histogram
    aspect_ratios: Histogram
    objects: Histogram
    image_sizes: list[Bar]
    levels: list[Bar]
    levels_note: str
    advice: list[str]
    counted: str  # which objects are counted


def write(health: Health, raw: Path, name: str, params: Params, path: Path) -> None:
    """Writes the page, whole or not at all. The same data set always gives the same bytes.

    Args:
        raw: the folder of the data set, unpacked.
        name: the name of the data set on the page.
        params: determines the input size, the pyramid and the assigner.

    Raises:
        PipelineError: the file can't be written.
    """
    pages.write(render(health, raw, name, params), path)


def render(health: Health, raw: Path, name: str, params: Params) -> str:
    """The HTML of the page."""
    survey = health.survey
    sources = {problem.source for finding in health.findings for problem in finding.problems[:_MAX_LISTED]}
    locations = locate_records(health.dataset, sources)
    samples, classes = _class_samples(raw, survey), _class_rows(survey)
    content = {
        "name": name,
        "headline": headline(survey),
        "stops": not health.usable,
        "verdict": verdict(health),
        "facts": _facts(survey),
        "splits": _split_rows(survey),
        "problems": [_problem(finding, raw, locations) for finding in health.findings],
        "notes": [*notes(survey), *health.obstacles],
        "size": "×".join(str(side) for side in params.train.size),
        "statistics": _training_statistics(survey, params),
        "classes": classes,
        "pictured": {category for category, pictures in samples.items() if pictures},
        "samples": [row | {"pictures": samples[row["id"]]} for row in classes if samples.get(row["id"])],
        "samples_note": _samples_note(samples, classes),
        "rows": len(classes) <= _MAX_ROWS,
    }
    return pages.render("health_page.html.jinja", content)


def _facts(survey: Survey) -> list[tuple[str, str]]:
    splits = survey.splits.values()
    return [
        ("format", survey.format),
        ("images", f"{sum(len(split.images) for split in splits):,}"),
        ("objects", f"{sum(len(split.objects) for split in splits):,}"),
        ("classes", f"{len(next(iter(splits)).categories):,}"),
    ]


def _split_rows(survey: Survey) -> list[dict[str, Any]]:
    return [
        {"name": name, "source": survey.sources[name], "counts": _split_counts(split)}
        for name, split in survey.splits.items()
    ]


def _split_counts(split: AnnotationSet) -> tuple[int, ...]:
    """Number of images, images without objects, objects, difficult objects and crowds."""
    objects, images = split.objects, len(split.images)
    difficult = sum(item.difficult for item in split.annotations)
    return images, images - len({item.image_id for item in objects}), len(objects), difficult, split.num_crowds


def _problem(finding: Finding, raw: Path, locations: Mapping[str, RecordLocation]) -> dict[str, Any]:
    listed = finding.problems[:_MAX_LISTED]
    located = [problem.source for problem in listed if problem.source in locations]
    first_of_file = {locations[source].file: source for source in reversed(located)}
    pictured = sorted(first_of_file.values(), key=located.index)[:_MAX_PICTURES]
    pictures = draw_thumbnails([_problem_spec(source, locations[source], raw) for source in pictured])
    return {
        "code": finding.code,
        "description": finding.description,
        "count": len(finding.problems),
        "outcome": finding.outcome,
        "tone": "bad" if finding.stops else "warn" if finding.changes else "",
        "choices": finding.choices,
        "entries": [str(problem) for problem in listed[:_MAX_OPEN]],
        "further": [str(problem) for problem in listed[_MAX_OPEN:]],
        "more": len(finding.problems) - len(listed),
        "pictures": [picture for picture in pictures if picture],
    }


def _problem_spec(source: str, location: RecordLocation, raw: Path) -> ThumbnailSpec:
    marked = (xywh_to_xyxy(location.box),) if location.box else ()
    return ThumbnailSpec(raw / location.file, marked, (), source, _PICTURE_SIDE)


def _training_statistics(survey: Survey, params: Params) -> TrainingStatistics | None:
    """None if there are no objects to train on."""
    train = survey.splits["train"]
    if not train.annotations:
        return None
    val = survey.splits.get("val", replace(train, images=(), annotations=()))
    context = make_context(params, train, val, steps=-(-len(train.images) // params.train.batch_size))
    if not len(context.box_sizes):
        return None
    include_difficult = params.train.include_difficult
    return TrainingStatistics(
        box_sizes=statistics.box_size_histogram(context.box_sizes),
        aspect_ratios=statistics.aspect_ratio_histogram(context.box_sizes),
        objects=statistics.objects_per_image_histogram(train, include_difficult=include_difficult),
        image_sizes=statistics.image_size_bars(context.image_sizes),
        levels=statistics.level_bars(context),
        levels_note=_levels_note(context),
        advice=[line for rule in DATA_RULES if (line := rule(context))],
        counted="difficult objects included" if include_difficult else "crowds and difficult objects excluded",
    )


def _levels_note(context: Context) -> str:
    if context.recall is None:
        return ""
    recall = context.recall
    sample = ", taken at equal distances in the list" if recall.images < context.images else ""
    per_object = recall.positives / recall.objects["all"]
    return (
        f"Assignment of {count_noun(recall.objects['all'], 'object')} in {count_noun(recall.images, 'image')}{sample}. "
        "Distances are measured from a location to the farthest side of the object. On average, an "
        f"object has {per_object:.1f} locations, possibly on several levels."
    )


def _class_rows(survey: Survey) -> list[dict[str, Any]]:
    """Classes with their number of objects in each split, most common first."""
    counts = [Counter(item.category_id for item in split.objects) for split in survey.splits.values()]
    categories = next(iter(survey.splits.values())).categories
    largest = max(counts[0].values(), default=1)
    return [
        {
            "id": category.id,
            "name": category.name,
            "counts": [count[category.id] for count in counts],
            "share": counts[0][category.id] / largest,
        }
        for category in sorted(categories, key=lambda category: -counts[0][category.id])
    ]


def _class_samples(raw: Path, survey: Survey) -> dict[int, list[Thumbnail]]:
    """Pictures of each class by category id, from the first split that has objects."""
    split = next((split for split in survey.splits.values() if split.annotations), None)
    if split is None:
        return {}
    specs = class_thumbnails(raw, split)
    drawn = iter(draw_thumbnails([spec for group in specs.values() for spec in group]))
    return {
        category: [picture for picture in (next(drawn) for _ in group) if picture] for category, group in specs.items()
    }


def _samples_note(samples: Mapping[int, list[Thumbnail]], classes: Sequence[dict[str, Any]]) -> str:
    note = "From small to large objects, relative to the image. Yellow: objects of the class; white: other classes."
    left_out = len(classes) - len(samples)
    return note + (f" Not shown: {left_out:,} classes without objects, or beyond the limit." if left_out else "")
