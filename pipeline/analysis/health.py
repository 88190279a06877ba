"""`fcos validate`: checks whether a data set can be converted and trained on."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import formats, params, recipes
from pipeline.analysis.findings import Health, group_problems, headline, notes, verdict
from pipeline.analysis.tiling import propose_for
from pipeline.conversion.survey import survey_records
from pipeline.datasets import registry
from pipeline.errors import PipelineError
from pipeline.overrides import override
from pipeline.params import ConvertParams, Params, TrainParams
from pipeline.workspace import workspace

_MAX_EXAMPLES = 3  # of each kind of problem
# The recipe whose network and input size are used outside a project.
_RECIPE = "paper_r50"


def load_params(size: tuple[int, int] | None, overrides: Sequence[str] = ()) -> Params:
    """The parameters of the current project, or those of a common recipe outside a project.

    Args:
        size: replaces train.size.
        overrides: replace parameters, such as `convert.issues=repair`.

    Raises:
        PipelineError: params.yaml, an override or the size is invalid.
    """
    values = override(_project_params() or _default_params(), overrides)
    try:
        # Validation computes nothing on a device, so a missing GPU is no error.
        train = replace(values.train, size=size or values.train.size)
        return replace(values, train=train, machine=replace(values.machine, device="auto"))
    except ValueError as error:
        raise PipelineError(f"--{error}") from None


def _project_params() -> Params | None:
    try:
        path = workspace() / "params.yaml"
    except PipelineError:
        return None
    return params.load(path) if path.is_file() else None


def _default_params() -> Params:
    values = recipes.load(_RECIPE)
    # The recipe names the splits of its own data set.
    return replace(values, convert=replace(values.convert, train=None, val=None, test=None, issues="error"))


def check_page_name(path: Path) -> None:
    """Makes sure that the page overwrites no file of the data set by mistake.

    Raises:
        PipelineError: the name doesn't end in .html.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise PipelineError(f"{path}: the name of the page must end in .html")


def examine(raw: Path, options: ConvertParams, format: str = "auto") -> Health:
    """Examines the data set in the folder `raw`, without stopping at any problem that the conversion checks for.

    Raises:
        PipelineError: the data set can't be read at all.
    """
    entry = registry.entry_for(raw.resolve().name, raw) if _downloaded(raw) else None
    format = entry.format if entry and format == "auto" else format
    dataset = formats.read(raw, format)
    survey = survey_records(raw, dataset, registry.with_splits(options, entry), stops=False)
    return Health(dataset, survey, group_problems(survey), tuple(survey.obstacles()))


def _downloaded(raw: Path) -> bool:
    """Whether the project's download stage wrote the folder; the conversion then uses the data set's registry entry."""
    try:
        return raw.resolve().parent == (workspace() / "data/raw").resolve()
    except PipelineError:  # outside a project
        return False


def report(health: Health, train: TrainParams) -> str:
    """Text for a terminal: the splits, each kind of problem with examples, advice on tiles, and the verdict."""
    width = max((len(finding.code) for finding in health.findings), default=0)
    digits = max((len(f"{len(finding.problems):,}") for finding in health.findings), default=0)
    lines = [headline(health.survey)]
    for finding in health.findings:
        code, count = f"{finding.code:<{width}}", f"{len(finding.problems):>{digits},}"
        lines.append(f"\n{code}  {count}  {finding.outcome}: {finding.description}")
        lines += [f"    {problem}" for problem in finding.problems[:_MAX_EXAMPLES]]
        if len(finding.problems) > _MAX_EXAMPLES:
            lines.append(f"    and {len(finding.problems) - _MAX_EXAMPLES:,} more")
        lines.append(f"    to change: {finding.setting}")
    tiles = propose_for(train, health.survey.splits["train"]) if "train" in health.survey.splits else None
    remarks = [*notes(health.survey), *([tiles] if tiles else []), *health.obstacles]
    return "\n".join([*lines, *([""] if remarks else []), *remarks, "", verdict(health)])


def to_record(health: Health) -> dict[str, Any]:
    """The conversion's report for JSON, with each kind of problem and what the conversion would do about it."""
    problems = [
        {
            "code": finding.code,
            "description": finding.description,
            "count": len(finding.problems),
            "stops": finding.stops,
            "outcome": finding.outcome,
            "choices": dict(finding.choices),
        }
        for finding in health.findings
    ]
    verdicts = {"usable": health.usable, "verdict": verdict(health), "obstacles": list(health.obstacles)}
    return {**verdicts, "problems": problems, **health.survey.report()}
