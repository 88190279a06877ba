"""What is wrong with a data set: stop at the first, or go on and list them all."""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import PipelineError


@dataclass(frozen=True, slots=True)
class Problem:
    code: str  # a short name to count by
    split: str  # train, val or test
    where: str  # the file, and the record in it
    message: str
    action: str  # what was done about it: clipped, dropped, skipped, …


class Ledger:
    """Takes problems down; a strict one stops at the first.

    It also counts what isn't a problem but worth knowing, such as boxes clipped by less than a pixel.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.problems: list[Problem] = []
        self.notes: dict[str, int] = {}

    def add(self, problem: Problem) -> None:
        """Takes a problem down.

        Raises:
            PipelineError: the ledger is strict; the line ends with the way to go on all the same.
        """
        if self.strict:
            raise PipelineError(
                f"{problem.where}: {problem.message}; mend it there, or have it {problem.action} "
                "with -S convert.problems=repair"
            )
        self.problems.append(problem)

    def note(self, what: str) -> None:
        self.notes[what] = self.notes.get(what, 0) + 1

    def report(self) -> dict[str, Any]:
        """Counts by code, and every problem, in the order in which they were found."""
        counts: dict[str, int] = {}
        for problem in self.problems:
            counts[problem.code] = counts.get(problem.code, 0) + 1
        return {"notes": self.notes, "counts": counts, "entries": [asdict(problem) for problem in self.problems]}
