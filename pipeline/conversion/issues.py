"""The log of a data set's issues: it stops at the first error, or continues and collects all of them."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.conversion.checks import CHECKS, Action, Fix, resolve_actions
from pipeline.errors import PipelineError, escape_line_breaks
from pipeline.formats.records import Issue
from pipeline.params import ConvertParams

SKIPPED_OBJECTS = "objects of skipped images"  # a note: these objects have no issue, but must be counted


@dataclass(frozen=True, slots=True)
class LoggedIssue:
    code: str  # a key of CHECKS
    split: str | None  # train, val or test; None for an issue of the whole data set
    source: str  # the file and the record in it
    message: str
    action: Action  # as the parameters say
    outcome: str  # of the action, as text: clipped, dropped, skipped, …

    def __str__(self) -> str:
        return f"{self.source}: {self.message}"


@dataclass
class IssueLog:
    """Collects issues and decides what to do about each.

    It also counts notes: facts that are no issues but worth reporting, such as boxes clipped by less than a pixel.
    """

    options: ConvertParams
    stops: bool = True  # False: errors are logged like other issues, and their mildest fix is applied
    issues: list[LoggedIssue] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # lines on how the data set was read

    def __post_init__(self) -> None:
        self.actions = resolve_actions(self.options)

    def handle(self, issue: Issue, split: str | None, source: str, *, repairable: bool = True) -> Fix:
        """Logs an issue and returns the fix to apply. An issue that isn't `repairable` is skipped instead.

        Raises:
            PipelineError: The issue is an error; the message ends with the parameter that continues in spite of it.
        """
        check, action = CHECKS[issue.code], self.actions[issue.code]
        fix: Fix = check.mildest_fix if action == "error" else action
        if fix == "repair" and not repairable and "skip" in check.fixes:
            fix = "skip"
        if action == "error" and self.stops:
            raise PipelineError(f"{source}: {issue.message}; {self._remedy(issue.code, fix)}")
        action = action if action == "error" else fix
        outcome = check.describe(action)
        location, message = escape_line_breaks(source), escape_line_breaks(issue.message)
        self.issues.append(LoggedIssue(issue.code, split, location, message, action, outcome))
        return fix

    def _remedy(self, code: str, fix: Fix) -> str:
        check = CHECKS[code]
        remedy = f"{check.remedy}, or run with -S convert.checks.{code}={check.mildest_fix} ({check.fixes[fix]})"
        is_default = getattr(self.options.checks, code) == "default"
        return f"{remedy}, or for all checks -S convert.issues=repair" if is_default else remedy

    def add_note(self, text: str, count: int = 1) -> None:
        if count:
            self.notes[text] = self.notes.get(text, 0) + count

    @property
    def counts(self) -> dict[str, int]:
        """The number of issues of each code."""
        return dict(Counter(issue.code for issue in self.issues))

    def examples(self, limit: int = 3) -> dict[str, list[LoggedIssue]]:
        """The first `limit` issues of each code."""
        examples: dict[str, list[LoggedIssue]] = {}
        for issue in self.issues:
            if len(of_code := examples.setdefault(issue.code, [])) < limit:
                of_code.append(issue)
        return examples

    def report(self) -> dict[str, Any]:
        """Remarks, notes, counts and examples by code, and all issues in the order in which they were logged."""
        return {
            "remarks": self.remarks,
            "notes": self.notes,
            "counts": self.counts,
            "examples": {code: [str(issue) for issue in issues] for code, issues in self.examples().items()},
            "entries": [{name: getattr(issue, name) for name in LoggedIssue.__slots__} for issue in self.issues],
        }
