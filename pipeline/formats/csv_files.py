"""Reading of CSV files."""

import csv
import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.files import to_utf8
from pipeline.formats.dataset_files import read_head

_THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(,\d{3})+(\.\d+)?")  # not "0,500", a decimal comma


def read_rows(folder: Path, file: PurePosixPath) -> Iterator[tuple[int, list[str]]]:
    """Yields the non-empty rows with stripped fields, each with the number of its last line.

    Where commas separate the fields, a quoted "1,000" becomes 1000.

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
                    yield line, _fields(row, delimiter)
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
        delimiter = _delimiter(text.partition("\n")[0])
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        return next((_fields(row, delimiter) for row in reader if any(field.strip() for field in row)), [])
    except csv.Error:
        return []


def _fields(row: list[str], delimiter: str) -> list[str]:
    fields = [field.strip() for field in row]
    if delimiter != ",":
        return fields
    return [field.replace(",", "") if _THOUSANDS.fullmatch(field) else field for field in fields]


def _delimiter(first_line: str) -> str:
    """Spreadsheets write semicolons in countries with a decimal comma; a tab is common, too."""
    return next((character for character in ";\t" if first_line.count(character) > first_line.count(",")), ",")


def parse_number(text: str) -> float | None:
    """A number with a decimal point or a decimal comma; None for other text."""
    try:
        return float(text.replace(",", ".")) if "_" not in text else None
    except ValueError:
        return None
