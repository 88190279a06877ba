"""What is wrong with a data set, taken down: stop at the first that is an error, or go on and list them all."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.conversion.checks import CHECKS, Action, Fix, actions
from pipeline.errors import PipelineError, escape_line_breaks
from pipeline.formats.records import Issue
from pipeline.params import ConvertParams

SKIPPED_OBJECTS = "objects of skipped images"  # a note: they are no problems of their own, but must not go uncounted


@dataclass(frozen=True, slots=True)
class LoggedIssue:
    code: str  # a key of CHECKS
    split: str | None  # train, val, test; None: the data set's as a whole
    source: str  # the file, and the record in it
    message: str
    action: Action  # what the parameters say about it
    outcome: str  # the same for people: clipped, dropped, skipped, …

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


@dataclass
class IssueLog:
    """Takes problems down, and says what to do about each.

    It also counts what isn't a problem but worth knowing, such as boxes clipped by less than a pixel.
    """

    options: ConvertParams
    stops: bool = True  # False: an error is listed like all the rest, and treated by the mildest mend there is
    issues: list[LoggedIssue] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.actions = actions(self.options)

    def act(self, issue: Issue, split: str | None, source: str, *, repairable: bool = True) -> Fix:
        """Takes a fault down; returns what to do about it. What can't be repaired is skipped.

        Raises:
            PipelineError: it is an error; the line ends with the way to go on all the same.
        """
        check, does = CHECKS[issue.code], self.actions[issue.code]
        fix: Fix = check.mildest_fix if does == "error" else does
        if fix == "repair" and not repairable and "skip" in check.fixes:
            fix = "skip"
        if does == "error" and self.stops:
            raise PipelineError(f"{source}: {issue.message}; mend it there, or have it {self._remedy(issue.code, fix)}")
        does = does if does == "error" else fix
        problem = LoggedIssue(
            issue.code, split, escape_line_breaks(source), escape_line_breaks(issue.message), does, check.describe(does)
        )
        self.issues.append(problem)
        return fix

    def _remedy(self, code: str, fix: Fix) -> str:
        check = CHECKS[code]
        line = f"{check.fixes[fix]} with -S convert.checks.{code}={check.mildest_fix}"
        followed = getattr(self.options.checks, code) == "default"
        return f"{line} (whatever is wrong: -S convert.issues=repair)" if followed else line

    def note(self, what: str, times: int = 1) -> None:
        if times:
            self.notes[what] = self.notes.get(what, 0) + times

    @property
    def counts(self) -> dict[str, int]:
        """How often each code was found."""
        return dict(Counter(problem.code for problem in self.issues))

    @property
    def errors(self) -> dict[str, int]:
        """The counts of those that stop a conversion with these parameters."""
        return dict(Counter(problem.code for problem in self.issues if problem.action == "error"))

    def examples(self, at_most: int = 3) -> dict[str, list[LoggedIssue]]:
        """The first problems of each code."""
        found: dict[str, list[LoggedIssue]] = {}
        for problem in self.issues:
            if len(seen := found.setdefault(problem.code, [])) < at_most:
                seen.append(problem)
        return found

    def report(self) -> dict[str, Any]:
        """Counts by code, some examples, and every problem, in the order in which they were found."""
        return {
            "notes": self.notes,
            "counts": self.counts,
            "examples": {code: [str(problem) for problem in found] for code, found in self.examples().items()},
            "entries": [{name: getattr(problem, name) for name in LoggedIssue.__slots__} for problem in self.issues],
        }
