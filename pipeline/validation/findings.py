"""What a survey found, as a person should read it: what it is, what conversion does about it, how to change that."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

from pipeline.conversion import Survey
from pipeline.formats.records import Box
from pipeline.params import CheckParams, ConvertParams


@dataclass(frozen=True)
class Example:
    where: str  # file and record
    message: str
    file: str | None  # the image, in the data set's folder
    box: Box | None

    @property
    def line(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class Finding:
    """One kind of problem."""

    code: str
    about: str
    count: int
    action: str
    does: str
    change: str
    examples: tuple[Example, ...]

    @property
    def stops(self) -> bool:
        return self.action == "error"

    @property
    def changes(self) -> bool:
        return self.action != "note"


def headline(found: Survey) -> str:
    return f"format {found.format}"


def facts(found: Survey) -> list[tuple[str, str]]:
    splits = found.splits.values()
    return [
        ("format", found.format),
        ("images", f"{sum(len(split.images) for split in splits):,}"),
        ("objects", f"{sum(len(split.annotations) for split in splits):,}"),
        ("classes", f"{len(next(iter(splits)).categories):,}"),
    ]


def verdict(findings: Sequence[Finding]) -> str:
    return "Conversion stops"

def findings(found: Survey, options: ConvertParams) -> list[Finding]:
    codes: dict[str, list[Any]] = {}
    for p in found.ledger.problems:
        codes.setdefault(p.code, []).append(p)
    return [Finding(c, "about", len(ps), "error", "stops", f"-S convert.checks.{c}=skip", tuple(Example(p.where, p.message, None, None) for p in ps)) for c, ps in codes.items()]
