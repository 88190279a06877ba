"""The exception whose message people see, and the phrases and tables that many messages need."""

import re
from collections.abc import Sequence

# Everything that str.splitlines splits at: names of files and classes may contain it.
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")


class PipelineError(Exception):
    """An error that a person can fix. Its message is one line: the file, the record, the problem, the remedy."""

    def __str__(self) -> str:
        return escape_line_breaks(super().__str__())


def escape_line_breaks(text: str) -> str:
    r"""Replaces each line break by its escape sequence in Python, such as `\n`."""
    return _LINE_BREAKS.sub(lambda match: repr(match[0])[1:-1], text)


def count_noun(number: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun, such as `1 image` or `2,000 images`; `plural` defaults to `singular` with an s."""
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"


def format_table(rows: Sequence[Sequence[str]], alignment: str) -> str:
    """Rows as lines of text, columns padded to equal width and separated by two spaces.

    Args:
        alignment: one letter for each column, `l` (left) or `r` (right).
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if letter == "l" else ">" for letter in alignment]
    return "\n".join(
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    )
