"""What a folder contains, in one line for people: for data sets whose format isn't recognized."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from pipeline.errors import PipelineError, count_noun
from pipeline.files import parse_json, to_utf8
from pipeline.formats.csv_files import read_first_row
from pipeline.formats.dataset_files import is_blank, read_head
from pipeline.formats.image_index import IMAGE_SUFFIXES
from pipeline.formats.text import show_value

_SAMPLE = 20  # files with one ending that are opened
_KINDS = 5  # kinds of files that are listed
_WORDS = 8  # columns or keys of a file that are listed
_LARGEST = 1 << 24  # bytes of a file that is parsed


_UNPARSED = (
    *(PipelineError, OSError, ValueError, TypeError, LookupError, RecursionError),
    *(ParseError, DefusedXmlException),
)


def describe_files(folder: Path, files: Sequence[PurePosixPath]) -> str:
    """The files by ending and content: `200 images; 3 .csv files with columns filename, width, …; a.json is empty`."""
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    by_suffix: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        if file.suffix.lower() not in IMAGE_SUFFIXES:
            by_suffix[file.suffix.lower()].append(file)
    kinds: Counter[str] = Counter()
    empty: list[PurePosixPath] = []
    for suffix, group in by_suffix.items():
        blank = [file for file in group[:_SAMPLE] if is_blank(folder / file)]
        empty += blank
        kinds.update(_describe_group(folder, suffix, [file for file in group if file not in blank]))
    parts = [count_noun(len(images), "image")] if images else []
    parts += [f"{count:,} {_plural(kind, count)}" for kind, count in kinds.most_common(_KINDS)]
    parts += [f"{count_noun(len(kinds) - _KINDS, 'other kind')} of files"] if len(kinds) > _KINDS else []
    parts += [f"{file} is empty" for file in empty[:_KINDS]]
    return "; ".join(parts) or "no files"


def _describe_group(folder: Path, suffix: str, files: Sequence[PurePosixPath]) -> Counter[str]:
    """Descriptions of the files with one ending, with their number. Files beyond a sample count for the most common."""
    name = f"{suffix} file" if suffix else "file without ending"
    counts = Counter(f"{name}{_describe_content(folder, file)}" for file in files[:_SAMPLE])
    if len(files) > _SAMPLE:
        counts[counts.most_common(1)[0][0]] += len(files) - _SAMPLE
    return counts


def _plural(kind: str, count: int) -> str:
    return kind if count == 1 else kind.replace("file", "files", 1)


def _describe_content(folder: Path, file: PurePosixPath) -> str:
    """What is in a file, to follow its name; empty if that is unknown."""
    describe = _DESCRIPTIONS.get(file.suffix.lower())
    if describe is None or (folder / file).stat().st_size > _LARGEST:
        return ""
    try:
        return describe(folder, file)
    except _UNPARSED as error:
        return f" that can't be parsed ({file}: {str(error).removeprefix(f'{file}: ').splitlines()[0]})"


def _describe_csv(folder: Path, file: PurePosixPath) -> str:
    row = read_first_row(folder, file)
    is_header = row and not any(field.replace(".", "").isdecimal() for field in row)
    return f" with columns {_list(row)}" if is_header else f" whose first row is {_list(row)}"


def _describe_json(folder: Path, file: PurePosixPath) -> str:
    content = parse_json((folder / file).read_bytes().removeprefix(b"\xef\xbb\xbf"), file)
    return f" with {_describe_value(content)}"


def _describe_lines(folder: Path, file: PurePosixPath) -> str:
    return f" whose lines have {_describe_value(json.loads(_first_line(folder, file)))}"


def _describe_value(value: Any) -> str:
    if isinstance(value, dict):
        return f"keys {_list(map(str, value))}"
    if isinstance(value, list):
        return (
            f"a list of objects with {_describe_value(value[0])}" if value and isinstance(value[0], dict) else "a list"
        )
    return f"the value {show_value(value)}"


def _describe_xml(folder: Path, file: PurePosixPath) -> str:
    root: Element = fromstring((folder / file).read_bytes())
    children = _list(dict.fromkeys(child.tag for child in root))
    return f" with <{show_value(root.tag)}>" + (f" of {children}" if children else "")


def _describe_text(folder: Path, file: PurePosixPath) -> str:
    return f" such as {file}, which begins {show_value(_first_line(folder, file)[:60])!r}"


def _first_line(folder: Path, file: PurePosixPath) -> str:
    return to_utf8(read_head(folder / file)).decode(errors="replace").strip().splitlines()[0]


def _list(words: Iterable[str]) -> str:
    listed = [show_value(word) for word in words]
    return ", ".join(listed[:_WORDS]) + (", …" if len(listed) > _WORDS else "")


_DESCRIPTIONS = {
    ".csv": _describe_csv,
    ".tsv": _describe_csv,
    ".json": _describe_json,
    ".geojson": _describe_json,
    ".jsonl": _describe_lines,
    ".odgt": _describe_lines,
    ".manifest": _describe_lines,
    ".xml": _describe_xml,
    ".yaml": _describe_text,
    ".yml": _describe_text,
    ".txt": _describe_text,
}
