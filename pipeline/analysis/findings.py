"""Problems of a data set by kind: what is wrong, what the conversion does, and the parameter that changes it."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pipeline.conversion import Survey
from pipeline.conversion.checks import CHECKS, Action, resolve_actions
from pipeline.conversion.issues import LoggedIssue
from pipeline.errors import count_noun, count_phrase, escape_line_breaks
from pipeline.formats.records import Box, RawDataset, RawImage

_MAX_COORDINATE = 1e6  # pixels: larger than any image


@dataclass(frozen=True)
class Finding:
    """All problems of one kind."""

    code: str  # a key of CHECKS
    problems: tuple[LoggedIssue, ...]
    choices: tuple[tuple[Action, str], ...]  # other values of convert.checks.<code>, with their meanings

    @property
    def description(self) -> str:
        return CHECKS[self.code].description

    @property
    def stops(self) -> bool:
        """Whether the problems stop the conversion."""
        return any(problem.action == "error" for problem in self.problems)

    @property
    def changes(self) -> bool:
        """Whether the conversion changes or leaves out records because of the problems."""
        return any(problem.action != "note" for problem in self.problems)

    @property
    def outcome(self) -> str:
        """What the conversion does; some boxes may be repaired and others dropped."""
        return ", ".join(dict.fromkeys(problem.outcome for problem in self.problems))

    @property
    def setting(self) -> str:
        """The option that changes the outcome, with its other values."""
        return f"-S convert.checks.{self.code}=" + " | ".join(
            f"{action} ({meaning})" for action, meaning in self.choices
        )


@dataclass(frozen=True)
class Health:
    """A data set and everything that was found in it."""

    dataset: RawDataset  # as stated by its files
    survey: Survey  # as the conversion would write it
    findings: tuple[Finding, ...]
    obstacles: tuple[str, ...]  # splits that can't be trained on or evaluated

    @property
    def usable(self) -> bool:
        return not self.obstacles and not any(finding.stops for finding in self.findings)


@dataclass(frozen=True)
class RecordLocation:
    """The image of a record, and its box."""

    file: str  # relative to the data set's folder
    box: Box | None  # x, y, width, height as annotated, valid or not; None if there is no box to draw


def group_problems(survey: Survey) -> tuple[Finding, ...]:
    """The problems by kind: first those that stop the conversion, then those that change records."""
    groups: dict[str, list[LoggedIssue]] = {}
    for problem in survey.issue_log.issues:
        groups.setdefault(problem.code, []).append(problem)
    configured = resolve_actions(survey.issue_log.options)
    found = [Finding(code, tuple(problems), _choices(code, configured[code])) for code, problems in groups.items()]
    order = list(CHECKS)
    return tuple(sorted(found, key=lambda item: (not item.stops, not item.changes, order.index(item.code))))


def _choices(code: str, configured: Action) -> tuple[tuple[Action, str], ...]:
    possible: list[Action] = [*CHECKS[code].fixes, "error"]
    return tuple((action, CHECKS[code].describe(action)) for action in possible if action != configured)


def locate_records(dataset: RawDataset, sources: Collection[str]) -> dict[str, RecordLocation]:
    """The images and boxes of records, by their `source`. Records without an image are left out."""
    if not sources:
        return {}
    images = (image for split in dataset.splits.values() for image in split.images)
    return {source: location for image in images for source, location in _locations(image) if source in sources}


def _locations(image: RawImage) -> Iterator[tuple[str, RecordLocation]]:
    if image.file:
        yield escape_line_breaks(image.source), RecordLocation(image.file, None)
        for item in image.objects:
            drawable = not item.issue and all(abs(value) < _MAX_COORDINATE for value in item.box)  # excludes NaN
            yield escape_line_breaks(item.source), RecordLocation(image.file, item.box if drawable else None)


def headline(survey: Survey) -> str:
    """Format, classes, and the usable images and objects of each split, in one line."""
    splits = [
        f"{name} {count_noun(len(split.images), 'image')}, {count_noun(len(split.objects), 'object')}"
        for name, split in survey.splits.items()
    ]
    classes = len(next(iter(survey.splits.values())).categories)
    return f"format {survey.format}, {count_noun(classes, 'class', 'classes')}; usable: {'; '.join(splits)}"


def verdict(health: Health) -> str:
    """Whether the data set can be trained on, in one sentence."""
    stopping = [finding for finding in health.findings if finding.stops]
    if stopping:
        count = sum(len(finding.problems) for finding in stopping)
        codes = ", ".join(finding.code for finding in stopping)
        return f"not ready for training: {count_noun(count, 'problem')} would stop the conversion ({codes})"
    if health.obstacles:
        return f"not ready for training: {health.obstacles[0]}"
    fixed = sum(len(finding.problems) for finding in health.findings if finding.changes)
    fixes = f"; {count_noun(fixed, 'problem')} would be fixed" if fixed else ""
    return f"ready for training: nothing would stop the conversion{fixes}"


def notes(survey: Survey) -> list[str]:
    """Facts that are not problems."""
    lines = list(survey.issue_log.remarks)
    lines += [count_phrase(count, text) for text, count in survey.issue_log.notes.items()]
    if survey.unused_image_files:
        lines.append(f"{count_noun(survey.unused_image_files, 'image file')} not used")
    if survey.unused_splits:
        lines.append(f"splits not used: {', '.join(survey.unused_splits)}")
    return lines
