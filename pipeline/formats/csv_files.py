"""Reading of CSV files."""

import csv
import io
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.files import to_utf8
from pipeline.formats.dataset_files import read_head


def read_rows(folder: Path, file: PurePosixPath) -> Iterator[tuple[int, list[str]]]:
    """Yields the non-empty rows with stripped fields, each with the number of its last line.

    Raises:
        PipelineError: The file can't be read, or isn't UTF-8 text or CSV; the message has the line.
    """
    line = 0
    try:
        encoding = "utf-16" if read_head(folder / file, 2) in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig"
        with (folder / file).open(encoding=encoding, newline="") as text:
            delimiter = _delimiter(text.readline())
            text.seek(0)
            reader = csv.reader(text, delimiter=delimiter)
            for row in reader:
                line = reader.line_num
                if any(field.strip() for field in row):
                    yield line, [field.strip() for field in row]
    except OSError as error:
        raise PipelineError(f"{file}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{file}: not CSV: not UTF-8 text after line {line}") from None
    except csv.Error as error:
        raise PipelineError(f"{file}: not CSV: {error} after line {line}") from None


def read_first_row(folder: Path, file: PurePosixPath) -> list[str]:
    """The first row, to recognize a format; empty if the file has no row or isn't CSV."""
    text = to_utf8(read_head(folder / file)).decode(errors="replace")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text.partition("\n")[0]))
        return next(([field.strip() for field in row] for row in reader if any(field.strip() for field in row)), [])
    except csv.Error:
        return []


def _delimiter(first_line: str) -> str:
    """Spreadsheets write semicolons in countries with a decimal comma; a tab is common, too."""
    return next((character for character in ";\t" if first_line.count(character) > first_line.count(",")), ",")


def parse_number(text: str) -> float | None:
    """A number with a decimal point or a decimal comma; None for other text."""
    try:
        return float(text.replace(",", ".")) if "_" not in text else None
    except ValueError:
        return None
