"""The unified format as other tools want it. A new format is one module and one line in EXPORTS."""

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import params, recipes
from pipeline.conversion import Survey, survey_original_splits
from pipeline.data.annotations import AnnotationSet
from pipeline.datasets.archives import find_archive, is_archive, unpack
from pipeline.errors import PipelineError, count_noun
from pipeline.files import atomic_replace
from pipeline.formats.writers import coco, voc, yolo
from pipeline.formats.writers.image_files import IMAGE_MODES, ImageSource

# Writes all splits into a folder; what the format can't hold comes back, counted by what it is called.
Writer = Callable[[dict[str, AnnotationSet], Path, ImageSource], Counter[str]]

WRITERS: dict[str, Writer] = {"coco": coco.write, "voc": voc.write, "yolo": yolo.write}

_UNPACKED = ".unpacked"
_REMEDY = re.compile(r"with -S convert\..*")


@dataclass(frozen=True)
class ExportResult:
    """What was read, and what of it the written format doesn't have."""

    whole: Survey
    lost: Counter[str]


def export(
    source: Path, to: str, out: Path, *, format: str = "auto", repair: bool = False, images: str
) -> ExportResult:
    """Writes the data set at `source`, a folder or an archive, to the folder `out`: whole or not at all.

    All its splits go along, by their own names and with all their images. Same input, same bytes.

    Args:
        to: a name in EXPORTS.
        format: a name in `pipeline.formats.FORMATS`, or "auto" to recognize it.
        repair: mend or leave out what is wrong with the data, in place of stopping there.
        images: a name in IMAGES.

    Raises:
        PipelineError: a format is unknown, the data set can't be read or has problems, or `out` is no place for it.
    """
    if to not in WRITERS:
        raise PipelineError(f"--to: format {to!r} can't be written; these can: {', '.join(WRITERS)}")
    source, out = source.absolute(), out.absolute()
    _check_places(source, out)
    try:
        with atomic_replace(out) as folder:
            folder.mkdir()
            with _own_words(source, folder), _unpacked(source, folder) as raw:
                read = survey_original_splits(raw, _options(repair=repair), format)
                _check_content(raw, read)
                lost = WRITERS[to](read.splits, folder, ImageSource(raw, IMAGE_MODES[images]))
    except OSError as error:
        raise PipelineError(f"{out}: not written: {error.strerror or error}") from None
    return ExportResult(read, lost)


@contextmanager
def _unpacked(source: Path, folder: Path) -> Iterator[Path]:
    """The data set's folder: `source`, or, of an archive, one inside `folder` for as long as it is needed.

    A folder with an archive alone means that one, as in `fcos validate` and for download.path.
    There links stay on one file system, and a killed process leaves nothing that the next one doesn't clear away.
    """
    archive = find_archive(source)
    if archive is None:
        yield source
        return
    raw = folder / _UNPACKED
    unpack(archive, raw)
    yield raw
    shutil.rmtree(raw)


@contextmanager
def _own_words(source: Path, folder: Path) -> Iterator[None]:
    """Errors that name the archive, not where it is unpacked, and the command's way to repair, not the pipeline's."""
    try:
        yield
    except PipelineError as error:
        line = str(error).replace(str(folder / _UNPACKED), str(source))
        raise PipelineError(_REMEDY.sub("with --repair", line)) from None


def describe_export(done: ExportResult, to: str, out: Path) -> Iterator[str]:
    """What a person should know: a line of what was written, and one each of what was repaired, noted and lost."""
    splits = "; ".join(
        f"{name} {count_noun(len(split.images), 'image')}, {count_noun(len(split.annotations), 'object')}"
        for name, split in done.whole.splits.items()
    )
    yield f"{out}: {done.whole.format} → {to}: {splits}"
    if repaired := _repaired(done.whole):
        yield "repaired: " + ", ".join(f"{count} {code}" for code, count in repaired.items())
    told = [f"{count:,} {what}" for what, count in done.whole.issue_log.notes.items()]
    if unused := done.whole.unused_image_files:
        told.append(f"{count_noun(unused, 'image file')} not used")
    if told:
        yield "; ".join(told)
    lost = "; ".join(f"{count} {what}" for what, count in done.lost.items() if count)
    if lost:
        yield f"not kept: {lost}"


def _repaired(read: Survey) -> Counter[str]:
    """How many records were mended or left out, by code; one of trainval is one of train too, and counts once."""
    checks = _options(repair=True).checks
    records = dict.fromkeys((problem.code, problem.source) for problem in read.issue_log.issues)
    return Counter(code for code, _ in records if getattr(checks, code) != "note")


def _options(*, repair: bool) -> params.ConvertParams:
    """Every check as it is by default; no project, and no params.yaml, is needed to convert."""
    default = recipes.defaults().convert
    return replace(default, issues="repair" if repair else "error")


def _check_places(source: Path, out: Path) -> None:
    if not source.is_dir() and not is_archive(source):
        what = "neither a folder nor an archive" if source.exists() else "no such file or folder"
        raise PipelineError(f"{source}: {what}; give the folder or archive that holds annotations and images")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PipelineError(f"{out}: something is there already; choose another --out, or remove it")
    if out.resolve().is_relative_to(source.resolve()):
        raise PipelineError(f"{out}: it lies in the data set itself, which would then hold two; choose another --out")


def _check_content(folder: Path, read: Survey) -> None:
    """Raises where there is nothing to write."""
    if not any(split.images for split in read.splits.values()):
        raise PipelineError(f"{folder}: no images that can be used; fcos validate says why")
    if not any(split.categories for split in read.splits.values()):
        raise PipelineError(f"{folder}: no classes: it has neither a list of them nor an object")
