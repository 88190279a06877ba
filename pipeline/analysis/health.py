"""`fcos validate`: whether a data set, as it lies there, can be learned from."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import formats, params, recipes
from pipeline.analysis.findings import Health, findings, headline, notes, verdict
from pipeline.conversion.survey import survey_records
from pipeline.datasets import registry
from pipeline.datasets.archives import find_archive, unpack
from pipeline.errors import PipelineError
from pipeline.params import ConvertParams, Params
from pipeline.workspace import workspace

_EXAMPLES = 3
# Outside a project: the network and input of a common recipe.
_RECIPE = "paper_r50"


def parameters(size: tuple[int, int] | None) -> Params:
    """Those of the project that is worked in; outside any, the usual ones.

    Args:
        size: in place of train.size.

    Raises:
        PipelineError: params.yaml is wrong, or doesn't go with this size.
    """
    values = _own() or _usual()
    try:
        # Only the annotations are looked at: whether a GPU is here doesn't matter.
        train = replace(values.train, size=size or values.train.size)
        return replace(values, train=train, machine=replace(values.machine, device="auto"))
    except ValueError as error:
        raise PipelineError(f"--{error}") from None


def _own() -> Params | None:
    try:
        path = workspace() / "params.yaml"
    except PipelineError:
        return None
    return params.load(path) if path.is_file() else None


def _usual() -> Params:
    values = recipes.load(_RECIPE)
    # A recipe names the splits of the data set it is for.
    return replace(values, convert=replace(values.convert, train=None, val=None, test=None, issues="error"))


def check_page_name(path: Path) -> None:
    """Before the work of a page begins.

    Raises:
        PipelineError: it is not called as a page is: it may be a file of the data set.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise PipelineError(f"{path}: the name of a page ends in .html")


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """The folder of a data set; an archive, or a folder with an archive alone, is unpacked for the time being.

    Raises:
        PipelineError: nothing is there, or an archive that can't be unpacked.
    """
    if not path.exists():
        raise PipelineError(f"{path}: no such file or folder; give the folder or the archive of a data set")
    archive = find_archive(path)  # of a file, whatever it is: unpacking says what is wrong with it
    if archive is None:
        yield path
        return
    with TemporaryDirectory(prefix="fcos-validate-") as staging:
        folder = Path(staging) / "data"
        unpack(archive, folder)
        try:
            yield folder
        except PipelineError as error:  # named as the person knows it
            raise PipelineError(str(error).replace(str(folder), str(archive))) from None


def look(raw: Path, options: ConvertParams, format: str = "auto") -> Health:
    """Looks at the data set in the folder `raw`, and stops at nothing that conversion has a check for.

    Raises:
        PipelineError: it can't be read at all.
    """
    entry = registry.entry_for(raw.resolve().name, raw) if _downloaded(raw) else None
    format = entry.format if entry and format == "auto" else format
    name = formats.recognize(raw) if format == "auto" else format
    dataset = formats.read(raw, name)
    found = survey_records(raw, name, dataset, registry.with_splits(options, entry), stops=False)
    return Health(dataset, found, findings(found), tuple(found.obstacles()))


def _downloaded(raw: Path) -> bool:
    """Whether the project's download stage put it there: then conversion goes by the data set's entry."""
    try:
        return raw.resolve().parent == (workspace() / "data/raw").resolve()
    except PipelineError:  # outside any project
        return False


def text(health: Health) -> str:
    """For a terminal: what there is, each kind of problem with examples, and what comes of it."""
    width = max((len(one.code) for one in health.findings), default=0)
    digits = max((len(f"{len(one.problems):,}") for one in health.findings), default=0)
    lines = [headline(health.survey)]
    for one in health.findings:
        lines.append(f"\n{one.code:<{width}}  {len(one.problems):>{digits},}  {one.does}: {one.says}")
        lines += [f"    {problem}" for problem in one.problems[:_EXAMPLES]]
        if len(one.problems) > _EXAMPLES:
            lines.append(f"    and {len(one.problems) - _EXAMPLES:,} more")
        lines.append(f"    to change: {one.change}")
    said = [*notes(health.survey), *health.obstacles]
    return "\n".join([*lines, *([""] if said else []), *said, "", verdict(health)])


def record(health: Health) -> dict[str, Any]:
    """For JSON: the conversion's report, with what it would do about each kind of problem."""
    about = [
        {"code": one.code, "says": one.says, "count": len(one.problems), "stops": one.stops, "does": one.does}
        | {"choices": dict(one.choices)}
        for one in health.findings
    ]
    verdicts = {"usable": health.usable, "verdict": verdict(health), "obstacles": list(health.obstacles)}
    return {**verdicts, "problems": about, **health.survey.report()}
