"""Markdown as GitHub, MLflow and the inspection page render it: untrusted text, code, tables and lists."""

import re
from collections.abc import Iterable, Sequence

from pipeline.errors import escape_line_breaks

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~$&#@]|:(?=//)|(?<=www)\.)")  # GitHub links @user, http:// and www.
_BLOCK_START = re.compile(r"^(\s*\d*)([-+=.)])")  # of a list or a heading
_TICKS = re.compile("`+")


def text(value: str) -> str:
    """Text in which no character has a meaning: names of classes and data sets are untrusted."""
    return _BLOCK_START.sub(r"\1\\\2", _SPECIAL.sub(r"\\\1", escape_line_breaks(value)))


def code(value: str) -> str:
    """A code span, also inside a table."""
    value = escape_line_breaks(value)
    fence = "`" * (1 + max(map(len, _TICKS.findall(value)), default=0))
    space = " " if value.startswith("`") or value.endswith("`") or not value.strip() else ""
    return f"{fence}{space}{value}{space}{fence}".replace("|", r"\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is aligned left and whose other columns are aligned right; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = f"|{'|'.join(['---'] + ['---:'] * (len(header) - 1))}|"
    return "\n".join([f"| {' | '.join(header)} |", rule, *lines]) if lines else ""


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def section(title: str, *blocks: str) -> str:
    """A section of the blocks that are not empty; empty without any."""
    present = [block for block in blocks if block]
    return "\n\n".join([f"## {title}", *present]) if present else ""


def number(value: float | None) -> str:
    """A metric, which is a fraction of 1; a dash where it has no value, as in tables of metrics elsewhere."""
    return "—" if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
