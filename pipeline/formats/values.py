"""Values of records: numbers, boxes and class names, each or an `Issue` with the reason why it can't be used."""

from collections.abc import Sequence
from typing import Any

from pipeline.formats.records import Box, Issue
from pipeline.formats.text import is_utf8, show_value

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def to_number(value: Any) -> float | None:
    """A number, or a number as text with a decimal point or comma; None for anything else."""
    if type(value) is float:
        return value
    if isinstance(value, str):
        value = None if "_" in value else value.replace(",", ".")
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def lookup(value: Any, *keys: str) -> Any:
    """The value at these keys of nested JSON objects; None if there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def to_size(width: Any, height: Any) -> tuple[int, int] | None:
    """Width and height as integers; None unless both are positive integers, also as text."""
    sides = [int(number) for value in (width, height) if (number := to_number(value)) and 0 < number < 2**31]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def to_label(value: Any) -> str | Issue:
    """A class name without surrounding white space. A class number becomes text."""
    label = str(value) if type(value) is int and abs(value) < 10**9 else value
    if isinstance(label, str) and label.strip() and is_utf8(label):
        return label.strip()
    return Issue("invalid_record", f"needs a class, has {show_value(value)}")


def box_from_corners(values: Sequence[Any], names: Sequence[str] = CORNERS, *, inclusive: bool = False) -> Box | Issue:
    """The box between two corners: left, top, right, bottom.

    Args:
        names: of the four values, for the message.
        inclusive: The corners are pixels inside the box, not its edges, so the box is one pixel wider and higher.
    """
    numbers = _four_numbers(values, names)
    if isinstance(numbers, Issue):
        return numbers
    left, top, right, bottom = numbers
    return (left, top, right - left + inclusive, bottom - top + inclusive)


def box_from_size(values: Sequence[Any], names: Sequence[str] = ("x", "y", "width", "height")) -> Box | Issue:
    """The box with this left, top, width and height."""
    numbers = _four_numbers(values, names)
    return numbers if isinstance(numbers, Issue) else (numbers[0], numbers[1], numbers[2], numbers[3])


def _four_numbers(values: Sequence[Any], names: Sequence[str]) -> list[float] | Issue:
    numbers = [number for value in values if (number := to_number(value)) is not None]
    if len(numbers) == len(values) == 4:
        return numbers
    return Issue("invalid_record", f"{', '.join(names)} are {show_value(list(values))}, not four numbers")
