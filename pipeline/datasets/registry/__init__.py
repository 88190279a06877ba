"""The data sets that are known by name, and how one's own is described. A `.yaml` beside this file is one; nothing
else lists them.

An entry says where a data set's files are, what they must be (size, checksum), how they are read, and which of its
splits are learned from and judged on. It knows nothing of fetching, so that reading one needs no network.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline import formats
from pipeline.errors import PipelineError
from pipeline.params import ConvertParams

FOLDER = Path(__file__).parent
ENTRY_COPY = ".dataset.yaml"  # a copy of one's own entry in data/raw/custom: hidden, since readers list the others
# What params.yaml's `dataset` may be besides the entries.
BUILT_IN = {
    "digits": "handwritten digits over photographs, made on the spot",
    "custom": "your own: download.path names a folder, an archive, or an entry like these",
    "fiftyone:NAME": "any data set with boxes of FiftyOne's zoo",
}
Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+(/\S*)?$")]
Digest = Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha1:[0-9a-f]{40}|sha256:[0-9a-f]{64})$")]
_MEANT = {
    "urls": "an address, http://… or https://…",
    "checksum": "md5:…, sha1:… or sha256:… in lower-case hexadecimal",
}


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A file of a data set: an archive, which is unpacked, or any other, which stays as it is."""

    urls: Annotated[tuple[Url, ...], Field(min_length=1)]  # the first that answers counts
    name: str = ""  # what it is called in a mirror; the address' last part, where it isn't said
    size: Annotated[int, Field(ge=1)] | None = None  # bytes
    checksum: Digest | None = None
    into: str = "."  # folder inside data/raw/<dataset>

    def __post_init__(self) -> None:
        name = self.name or unquote(PurePosixPath(urlsplit(self.urls[0]).path).name)
        if not name or name.startswith(".") or "/" in name or "\\" in name:
            raise ValueError(f"name: {name!r} is no file name; say how the file is called")
        if self.into.startswith("/") or ".." in self.into.split("/") or "\\" in self.into:
            raise ValueError(f"into: {self.into!r} leaves the data set's folder")
        object.__setattr__(self, "name", name)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The data set's own names of its splits, `A+B` for the images of both; None: whichever is obvious."""

    train: str | None = None
    val: str | None = None
    test: str | None = None


@dataclass(frozen=True, kw_only=True)
class Entry:
    files: Annotated[tuple[DataFile, ...], Field(min_length=1)]
    title: str = ""
    homepage: Url | None = None
    license: str = "not stated"
    citation: str | None = None
    images: Annotated[int, Field(ge=1)] | None = None  # with annotations, in all splits
    format: str = "auto"
    splits: Splits = Splits()

    def __post_init__(self) -> None:
        if self.format not in ("auto", *formats.FORMATS):
            raise ValueError(f"format: {self.format!r} is not known; known ones: auto, {', '.join(formats.FORMATS)}")
        names = [file.name for file in self.files]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"files: {twice!r} is there twice; each file needs a name of its own")

    @property
    def size(self) -> int | None:
        """Bytes to download; None where a file's size isn't known."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


def names() -> tuple[str, ...]:
    """Every entry's name, in the alphabet's order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def find(name: str) -> Entry:
    """The entry of that name.

    Raises:
        PipelineError: there is none; the message lists all that `dataset` may be.
    """
    return read(path_of(name))


def path_of(name: str) -> Path:
    """The entry's file.

    Raises:
        PipelineError: as `find`.
    """
    if name not in names():
        known = ", ".join((*BUILT_IN, *names()))
        raise PipelineError(f"dataset: {name!r} is not known; known ones: {known} (`fcos datasets` tells more)")
    return FOLDER / f"{name}.yaml"


def is_entry(path: Path) -> bool:
    """Whether a person's file is meant as an entry."""
    return path.suffix.lower() in (".yaml", ".yml")


def read(path: Path) -> Entry:
    """Reads and checks an entry's file.

    Raises:
        PipelineError: one line that names the file, the key, and what would be right there.
    """
    try:
        values = YAML(typ="safe").load(path)
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: not read: {getattr(error, 'strerror', None) or error}") from None
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        where = f" at line {mark.line + 1}" if mark else ""
        reason = error.problem if isinstance(error, MarkedYAMLError) else str(error).splitlines()[0]
        raise PipelineError(f"{path}: not YAML: {reason}{where}") from None
    try:
        # By way of JSON, for its strictness: a list may be a tuple, but "1" is no number.
        return _ADAPTER.validate_json(json.dumps(values, default=str), strict=True, extra="forbid")
    except ValidationError as error:
        raise PipelineError(f"{path}: {_first_problem(error)}") from None
    except (TypeError, ValueError, RecursionError):  # a list as a key, a list that holds itself
        raise PipelineError(f"{path}: keys should be words, and values words, numbers or lists") from None


def entry_for(dataset: str, raw: Path) -> Entry | None:
    """The entry that describes what lies in data/raw/<dataset>; None for a data set that needs none.

    One's own is read from the copy that came with the data: what was downloaded is what it describes.
    """
    if dataset in names():
        return find(dataset)
    return read(raw / ENTRY_COPY) if (raw / ENTRY_COPY).is_file() else None


def with_splits(options: ConvertParams, entry: Entry | None) -> ConvertParams:
    """The options with the entry's splits, where params.yaml names none at all."""
    if entry is None or any((options.train, options.val, options.test)):
        return options
    return replace(options, train=entry.splits.train, val=entry.splits.val, test=entry.splits.test)


def summary_lines() -> list[str]:
    """A line for each data set: name, images, bytes to download, title and license."""
    rows = [(name, "", "", about) for name, about in BUILT_IN.items()]
    for name in names():
        entry = find(name)
        size = f"{entry.size / 1e9:.2f} GB" if entry.size else "size unknown"
        rows.append((name, f"{entry.images:,} images", size, f"{entry.title} ({entry.license})"))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        f"{name:{widths[0]}}  {images:>{widths[1]}}  {size:>{widths[2]}}  {about}" for name, images, size, about in rows
    ]


def entry_text(name: str) -> str:
    """A whole entry, as its file has it: of the registry, or a person's own file, which is checked.

    Raises:
        PipelineError: there is none, or it is wrong.
    """
    if name in BUILT_IN:
        return f"{name}: {BUILT_IN[name]}"
    path = Path(name) if is_entry(Path(name)) else path_of(name)
    read(path)
    return path.read_text(encoding="utf-8").rstrip()


def _first_problem(error: ValidationError) -> str:
    # A misspelled key may be a missing one too: the misspelling tells more.
    problem = sorted(error.errors(include_url=False), key=lambda found: found["type"] == "missing")[0]
    place = problem["loc"]
    key = ".".join(str(part + 1) if isinstance(part, int) else part for part in place) or "it"
    match problem["type"]:
        case "missing":
            return f"{key} is missing"
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{key} is not a key; known ones: {', '.join(_known(place[:-1]))}"
        case "value_error":
            inner = problem["msg"].removeprefix("Value error, ")
            return f"{key}: {inner}" if place else inner
        case "string_pattern_mismatch":
            meant = next((_MEANT[part] for part in place if part in _MEANT), "an address, http://… or https://…")
            return f"{key} is {problem['input']!r}, but should be {meant}"
        case "dataclass_type":
            return f"{key} is {problem['input']!r}, but should have the keys {', '.join(_known(place))}"
    return f"{key} is {problem['input']!r}, but should be {problem['msg'].removeprefix('Input should be ')}"


def _known(place: Sequence[int | str]) -> list[str]:
    kind: Any = {"files": DataFile, "splits": Splits}.get(str(place[0]) if place else "", Entry)
    return [field.name for field in fields(kind)]


_ADAPTER = TypeAdapter(Entry)
