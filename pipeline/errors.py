"""Text for people: the exception whose message is printed as one line, counted nouns and plain-text tables."""

import re
from collections.abc import Sequence

# Whatever str.splitlines parts at: names of files and classes may have any of them.
_BREAKS = re.compile("[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")


class PipelineError(Exception):
    """Something a person can mend: the message names the file, the record, the problem and the remedy."""

    def __str__(self) -> str:
        return one_line(super().__str__())


def one_line(text: str) -> str:
    r"""The text with each line break as Python writes it, such as `\n`."""
    return _BREAKS.sub(lambda found: repr(found[0])[1:-1], text)


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
