"""What a survey found, as a person should read it: what it is, what conversion does about it, how to change that."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from pipeline.conversion import Survey
from pipeline.conversion.checks import CHECKS, Action, resolve_actions
from pipeline.conversion.issues import LoggedIssue
from pipeline.errors import count_noun, escape_line_breaks
from pipeline.formats.records import Box, RawDataset, RawImage

_FAR = 1e6  # pixels: no image is as large


@dataclass(frozen=True)
class Finding:
    """All problems of one kind."""

    code: str  # a key of CHECKS
    problems: tuple[LoggedIssue, ...]
    choices: tuple[tuple[Action, str], ...]  # what else may be done, by convert.checks.<code>, and what that means

    @property
    def says(self) -> str:
        return CHECKS[self.code].description

    @property
    def stops(self) -> bool:
        """Whether the conversion stops at it."""
        return any(problem.action == "error" for problem in self.problems)

    @property
    def changes(self) -> bool:
        """Whether the conversion makes something else of it, or leaves it out."""
        return any(problem.action != "note" for problem in self.problems)

    @property
    def does(self) -> str:
        """What becomes of them; of some boxes something is left, of others nothing."""
        return ", ".join(dict.fromkeys(problem.outcome for problem in self.problems))

    @property
    def change(self) -> str:
        """How to have something else done."""
        return f"convert.checks.{self.code}=" + " | ".join(f"{action} ({words})" for action, words in self.choices)


@dataclass(frozen=True)
class Health:
    """A data set, looked at."""

    dataset: RawDataset  # as its files state it
    survey: Survey  # as conversion would make it
    findings: tuple[Finding, ...]
    obstacles: tuple[str, ...]  # why there would be nothing to learn from, or to be judged on

    @property
    def usable(self) -> bool:
        return not self.obstacles and not any(one.stops for one in self.findings)


@dataclass(frozen=True)
class Place:
    """Where a record is to be seen."""

    file: str  # the image, in the data set's folder
    box: Box | None  # x, y, width, height as annotated, right or wrong; None where there is none to draw


def findings(found: Survey) -> tuple[Finding, ...]:
    """The problems by kind: those that stop the conversion first, then those that change something."""
    groups: dict[str, list[LoggedIssue]] = {}
    for problem in found.issue_log.issues:
        groups.setdefault(problem.code, []).append(problem)
    done = resolve_actions(found.issue_log.options)
    listed = [Finding(code, tuple(group), _choices(code, done[code])) for code, group in groups.items()]
    return tuple(sorted(listed, key=lambda one: (not one.stops, not one.changes, list(CHECKS).index(one.code))))


def _choices(code: str, now: Action) -> tuple[tuple[Action, str], ...]:
    every: list[Action] = [*CHECKS[code].fixes, "error"]
    return tuple((action, CHECKS[code].describe(action)) for action in every if action != now)


def places(dataset: RawDataset, wanted: Collection[str]) -> dict[str, Place]:
    """Where records are to be seen, by their `where`; those without an image are left out."""
    if not wanted:
        return {}
    found = (item for split in dataset.splits.values() for image in split.images for item in _placed(image))
    return {where: place for where, place in found if where in wanted}


def _placed(image: RawImage) -> Iterator[tuple[str, Place]]:
    if image.file:
        yield escape_line_breaks(image.source), Place(image.file, None)
        for one in image.objects:
            drawable = not one.issue and all(abs(side) < _FAR for side in one.box)  # NaN and infinity aren't
            yield escape_line_breaks(one.source), Place(image.file, one.box if drawable else None)


def headline(found: Survey) -> str:
    """Format, classes, and what there is to use of each split, in a line."""
    splits = [
        f"{name} {count_noun(len(split.images), 'image')}, {count_noun(len(split.annotations), 'object')}"
        for name, split in found.splits.items()
    ]
    classes = len(next(iter(found.splits.values())).categories)
    return f"format {found.format}, {count_noun(classes, 'class', 'classes')}; usable: {'; '.join(splits)}"


def verdict(health: Health) -> str:
    """What comes of it, in a sentence."""
    stopping = [one for one in health.findings if one.stops]
    mended = sum(len(one.problems) for one in health.findings if one.changes and not one.stops)
    if stopping:
        count = sum(len(one.problems) for one in stopping)
        codes = ", ".join(one.code for one in stopping)
        return f"training would go wrong: {count_noun(count, 'problem')} would stop the conversion ({codes})"
    if health.obstacles:
        return f"training would go wrong: {health.obstacles[0]}"
    mends = f"; {count_noun(mended, 'problem')} would be mended" if mended else ""
    return f"nothing would stop the conversion{mends}"


def notes(found: Survey) -> list[str]:
    """What isn't a problem, but worth knowing."""
    unused = f"{count_noun(found.unused_image_files, 'image file')} not used"
    told = [f"{count:,} {what}" for what, count in found.issue_log.notes.items()]
    left = f"splits not used: {', '.join(found.unused_splits)}"
    return told + [unused] * bool(found.unused_image_files) + [left] * bool(found.unused_splits)
