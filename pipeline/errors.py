"""The exception whose message people see, and the phrases and tables that many messages need."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

Key = Sequence[int | str]

# Everything that str.splitlines splits at: names of files and classes may contain it.
_LINE_BREAKS = re.compile("[\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029]")
_MAX_VALUE = 80  # letters of an invalid value that a message shows
_PLURAL_ENDING = re.compile(r"(?:(?<=x)|(?<=ss))es\b|(?<!s)s\b")  # of boxes, classes and images, but not of class


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


def count_phrase(number: int, plural: str) -> str:
    """A number with a phrase. For 1, the phrase's first plural noun becomes singular: `1 box outside its image`."""
    return f"{number:,} {_PLURAL_ENDING.sub('', plural, count=1) if number == 1 else plural}"


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


def describe_validation_error(
    error: "ValidationError",
    known_keys: Callable[[Key], Sequence[str]],
    *,
    section: Key = (),
    renamed: Mapping[str, str] | None = None,
    patterns: Mapping[str, str] | None = None,
    format_location: Callable[[Key], str] | None = None,
) -> str:
    """Describes the first invalid value of a file: its key, the value, and what is allowed.

    Args:
        known_keys: returns the keys that are known in a section.
        section: of the file that was validated; default: the whole file.
        renamed: new names of keys.
        patterns: descriptions of the values that must match a pattern, by the last word of their key.
        format_location: formats the position of the value; default: its key, as `train.lr`.
    """
    # A misspelled key is reported as unknown and as missing; "unknown" helps more. Where a value may be a list or a
    # mapping, both have errors: those within the value are of the type that it has.
    details = min(
        error.errors(include_url=False),
        key=lambda details: (details["type"] == "missing", any(map(_is_type, details["loc"][-1:]))),
    )
    location = (*section, *(part for part in details["loc"] if not _is_type(part)))
    key = (format_location or _format_key)(location) or "it"
    match details["type"]:
        case "missing":
            return f"{key} is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            if renamed and key in renamed:
                return f"{key} has a new name: {renamed[key]}"
            return f"{key} is unknown; known ones: {', '.join(known_keys(location[:-1]))}"
        case "value_error":  # raised by a dataclass, whose message names the key
            message = details["msg"].removeprefix("Value error, ")
            return f"{key}: {message}" if location else message
        case "dataclass_type":
            expected = f"have the keys {', '.join(known_keys(location))}"
        case "string_pattern_mismatch" if patterns:
            words = [part for part in location if part in patterns]
            expected = f"be {patterns[str(words[-1])]}"
        case "too_short":
            expected = f"have at least {count_noun(details['ctx']['min_length'], 'value')}"
        case _:
            expected = f"be {details['msg'].removeprefix('Input should be ')}"
    return f"{key} is {_shorten(repr(details['input']))}, but should {expected}"


def _is_type(part: str | int) -> bool:
    """Whether a part of a location is pydantic's name of a type, such as `tuple[str, ...]`."""
    return isinstance(part, str) and part.startswith(("tuple[", "dict["))


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"


def describe_record_error(error: "ValidationError", known_keys: Sequence[str] = ()) -> str:
    """Describes the first invalid value of a file of records: `record 3: score is missing`.

    Args:
        known_keys: of a record, for files in which others are an error.
    """
    details = error.errors(include_url=False)[0]
    if details["type"] == "json_invalid":
        return f"not JSON: {details['ctx']['error']}"
    return describe_validation_error(error, lambda _: known_keys, format_location=_format_record)


def _format_key(location: Key) -> str:
    return ".".join(str(part + 1) if isinstance(part, int) else part for part in location)


def _format_record(location: Key) -> str:
    """`record 1: bbox: value 3` for the location (1, "bbox", 3): the first index is that of a record."""
    kinds = chain(["record"], repeat("value"))
    return ": ".join(f"{next(kinds)} {part}" if isinstance(part, int) else part for part in location)
