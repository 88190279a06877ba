"""Export of a data set to the formats of other tools. A new format takes one module and one line in WRITERS."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import recipes
from pipeline.conversion import Survey, survey_original_splits
from pipeline.conversion.checks import CHECKS
from pipeline.data.annotations import AnnotationSet
from pipeline.datasets.archives import is_archive
from pipeline.datasets.links import check_links
from pipeline.datasets.staging import stage_dataset
from pipeline.errors import PipelineError, count_noun, count_phrase
from pipeline.files import atomic_replace, require_new_folder
from pipeline.formats.writers import coco, voc, yolo
from pipeline.formats.writers.image_files import IMAGE_MODES, SourceImages
from pipeline.overrides import override
from pipeline.params import Params

# Writes all splits to a folder and returns what the format can't hold, counted by description.
Writer = Callable[[dict[str, AnnotationSet], Path, SourceImages], Counter[str]]

WRITERS: dict[str, Writer] = {"coco": coco.write, "voc": voc.write, "yolo": yolo.write}

_UNPACKED = ".unpacked"
# Parameters that choose the splits of a training.
_SPLIT_PARAMETERS = ("train", "val", "test", "val_fraction", "split_seed", "folds", "fold", "group_pattern")


@dataclass(frozen=True)
class ExportResult:
    survey: Survey
    lost: Counter[str]  # what the written format can't hold


def load_params(overrides: Sequence[str] = (), *, format: str = "auto", repair: bool = False) -> Params:
    """The default parameters with overrides: an export needs no project and no params.yaml.

    Args:
        overrides: such as `convert.classes=[car, van]`.
        format: A key of `pipeline.formats.FORMATS`; "auto": that of download.format.
        repair: Repair issues or skip their records instead of stopping.

    Raises:
        PipelineError: An override is invalid, or changes the splits, which an export keeps.
    """
    default = recipes.defaults()
    options = [*(["convert.issues=repair"] if repair else []), *overrides]
    values = override(default, options if format == "auto" else [*options, f"download.format={format}"])
    for name in _SPLIT_PARAMETERS:
        if getattr(values.convert, name) != getattr(default.convert, name):
            raise PipelineError(f"-S convert.{name}: fcos convert keeps the data set's own splits; leave it out")
    return values


def export(
    source: Path, to: str, out: Path, values: Params, *, images: str, corrections: Path | None = None
) -> ExportResult:
    """Writes the data set at `source`, a folder or an archive, to the folder `out` atomically.

    All splits are written under their own names, with all their images. The same input gives the same bytes.

    Args:
        to: A key of WRITERS.
        values: `load_params` returns them.
        images: A key of IMAGE_MODES.
        corrections: A file of corrections to apply (`conversion.corrections`).

    Raises:
        PipelineError: A format is unknown, the data set can't be read or has issues, or `out` can't be used.
    """
    if to not in WRITERS:
        raise PipelineError(f"--to: format {to!r} can't be written; choose one of {', '.join(WRITERS)}")
    source, out, format = source.absolute(), out.absolute(), values.download.format
    _check_paths(source, out)
    if source.is_dir():
        check_links(source, follow=values.download.follow_links)
    try:
        with atomic_replace(out) as folder:
            folder.mkdir()
            with _named_source(source, folder), _staged(source, folder, format) as raw:
                survey = survey_original_splits(raw, values.convert, format, corrections=corrections)
                _check_content(raw, survey)
                lost = WRITERS[to](survey.splits, folder, SourceImages(raw, IMAGE_MODES[images]))
    except OSError as error:
        raise PipelineError(f"{out}: can't be written: {error.strerror or error}") from None
    return ExportResult(survey, lost)


@contextmanager
def _staged(source: Path, folder: Path, format: str) -> Iterator[Path]:
    """The data set's folder: `source`, or a temporary folder inside `folder` if `source` must be unpacked.

    Unpacking inside `folder` keeps hard links on one file system, and the next run cleans up after a killed process.
    """
    raw = stage_dataset(source, folder / _UNPACKED, format)
    yield raw
    if raw != source:
        shutil.rmtree(raw)


@contextmanager
def _named_source(source: Path, folder: Path) -> Iterator[None]:
    """Makes error messages name the archive instead of the temporary folder."""
    try:
        yield
    except PipelineError as error:
        raise PipelineError(str(error).replace(str(folder / _UNPACKED), str(source))) from None


def describe_export(result: ExportResult, to: str, out: Path) -> Iterator[str]:
    """Lines for people: what was written, and what was repaired, noted and lost, if anything."""
    survey = result.survey
    splits = "; ".join(
        f"{name} {count_noun(len(split.images), 'image')}, {count_noun(len(split.objects), 'object')}"
        for name, split in survey.splits.items()
    )
    yield f"{out}: {survey.format} → {to}: {splits}"
    if repaired := _count_repaired(survey):
        yield "repaired: " + ", ".join(f"{count} {code}" for code, count in repaired.items())
    if survey.corrections:
        yield f"{count_noun(sum(survey.corrections['applied'].values()), 'correction')} applied"
    yield from survey.issue_log.remarks
    notes = [count_phrase(count, text) for text, count in survey.issue_log.notes.items()]
    if unused := survey.unused_image_files:
        notes.append(f"{count_noun(unused, 'image file')} not used")
    if notes:
        yield "; ".join(notes)
    lost = "; ".join(count_phrase(count, text) for text, count in result.lost.items() if count)
    if lost:
        yield f"not preserved: {lost}"


def _count_repaired(survey: Survey) -> Counter[str]:
    """The number of records repaired or skipped, by code. A record of trainval and train counts once."""
    records = dict.fromkeys((issue.code, issue.source) for issue in survey.issue_log.issues if issue.action != "note")
    return Counter(code for code, _ in records)


def _check_paths(source: Path, out: Path) -> None:
    if not source.is_dir() and not is_archive(source):
        problem = "neither a folder nor an archive" if source.exists() else "no such file or folder"
        raise PipelineError(f"{source}: {problem}; give the folder or archive of a data set")
    require_new_folder(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise PipelineError(f"{out}: is inside the data set; choose another --out")


def _check_content(folder: Path, survey: Survey) -> None:
    if not any(split.images for split in survey.splits.values()):
        raise PipelineError(f"{folder}: no usable images; run fcos validate for the reasons")
    issues = survey.issue_log.counts
    if issues and not any(split.annotations for split in survey.splits.values()):
        dropped = ", ".join(f"{count} {code}" for code, count in issues.items() if CHECKS[code].severity == "error")
        if dropped:
            raise PipelineError(f"{folder}: no usable objects ({dropped}); run fcos validate for the reasons")
    if not any(split.categories for split in survey.splits.values()):
        raise PipelineError(f"{folder}: no classes: neither a class list nor an object")
