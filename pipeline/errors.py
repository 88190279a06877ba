"""The one exception that people see: its message is the whole explanation, in one line."""

import re

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
