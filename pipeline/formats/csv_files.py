"""Comma-separated files."""

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.formats.image_index import read_head


def rows(folder: Path, file: PurePosixPath) -> Iterator[tuple[int, list[str]]]:
    """The rows of a file that hold anything, with the number of the line each ends on.

    Raises:
        PipelineError: it isn't UTF-8 text or isn't CSV, with the line.
    """
    number = 0
    try:
        with (folder / file).open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text)
            for row in reader:
                number = reader.line_num
                if any(field.strip() for field in row):
                    yield number, [field.strip() for field in row]
    except OSError as error:
        raise PipelineError(f"{file}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{file}: not CSV: it is not UTF-8 text, after line {number}") from None
    except csv.Error as error:
        raise PipelineError(f"{file}: not CSV: {error}, after line {number}") from None


def first_row(folder: Path, file: PurePosixPath) -> list[str]:
    """The first row, by which a file is recognized; empty where there is none, or none that can be read."""
    text = read_head(folder / file).decode("utf-8-sig", errors="replace")
    try:
        return next(([field.strip() for field in row] for row in csv.reader(text.splitlines()) if row), [])
    except csv.Error:
        return []


def number(text: str) -> float | None:
    """A number, also with a decimal comma; None for anything else."""
    try:
        return float(text.replace(",", ".")) if "_" not in text else None
    except ValueError:
        return None
