"""Data sets by name, and the format of their entries. Each `.yaml` file beside this module is an entry.

An entry lists the files of a data set (URLs, size, checksum), its annotation format, and which of its splits are used
for training, validation and test. This module doesn't download, so that reading an entry needs no network.
"""

from dataclasses import dataclass, fields, replace
from pathlib import Path, PurePosixPath
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import Field, TypeAdapter, ValidationError

from pipeline import formats
from pipeline.errors import Key, PipelineError, describe_validation_error, format_table
from pipeline.params import ConvertParams
from pipeline.yaml_files import read_yaml, to_json

FOLDER = Path(__file__).parent
# The copy of a person's own entry in data/raw/custom. It is hidden, since format readers list the other files.
ENTRY_COPY = ".dataset.yaml"
# Values of `dataset` in params.yaml that need no entry.
BUILT_IN = {
    "digits": "handwritten digits over photographs, generated locally",
    "custom": "your own: download.path names a folder, an archive, or an entry like these",
    "fiftyone:NAME": "any data set with boxes in FiftyOne's zoo",
}
Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+(/\S*)?$")]
Digest = Annotated[str, Field(pattern=r"^(md5:[0-9a-f]{32}|sha1:[0-9a-f]{40}|sha256:[0-9a-f]{64})$")]
_AN_ADDRESS = "an address, http://… or https://…"
_PATTERNS = {
    "urls": _AN_ADDRESS,
    "homepage": _AN_ADDRESS,
    "checksum": "md5:…, sha1:… or sha256:… in lower-case hexadecimal",
}
_TEMPORARY_SUFFIXES = (".part", ".part.json")  # of files that are being downloaded


@dataclass(frozen=True, kw_only=True)
class DataFile:
    """A file of a data set: an archive, which is unpacked, or another file, which is copied."""

    urls: Annotated[tuple[Url, ...], Field(min_length=1)]  # tried in this order
    name: str = ""  # its name in a mirror; default: the last part of the first URL
    size: Annotated[int, Field(ge=1)] | None = None  # bytes
    checksum: Digest | None = None
    into: str = "."  # folder inside data/raw/<dataset>

    def __post_init__(self) -> None:
        paths = [urlsplit(url).path for url in self.urls]
        name = self.name or unquote(PurePosixPath(paths[0]).name)
        if not name or name.startswith(".") or "/" in name or "\\" in name or not name.isprintable():
            raise ValueError(f"name: {name!r} is not a file name; give the file's name")
        if name.endswith(_TEMPORARY_SUFFIXES):
            raise ValueError(f"name: {name!r} ends like a file that is being downloaded")
        if self.into.startswith("/") or ".." in self.into.split("/") or "\\" in self.into:
            raise ValueError(f"into: {self.into!r} leaves the data set's folder")
        object.__setattr__(self, "name", name)


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The data set's own names of its splits; `A+B` joins two. None: the split is chosen automatically."""

    train: str | None = None
    val: str | None = None
    test: str | None = None


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a data set comes from, and under which terms."""

    title: str = ""
    homepage: Url | None = None
    license: str = "not stated"
    citation: str | None = None


@dataclass(frozen=True, kw_only=True)
class Entry(Source):
    """The description of a data set with files to download."""

    files: Annotated[tuple[DataFile, ...], Field(min_length=1)]
    images: Annotated[int, Field(ge=1)] | None = None  # with annotations, in all splits
    format: str = "auto"
    splits: Splits = Splits()

    def __post_init__(self) -> None:
        if self.format not in ("auto", *formats.FORMATS):
            raise ValueError(f"format: {self.format!r} is not known; known ones: auto, {', '.join(formats.FORMATS)}")
        names = [file.name for file in self.files]
        if repeated := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"files: {repeated!r} is there twice; give each file a different name")

    @property
    def size(self) -> int | None:
        """Bytes to download; None if the size of a file is unknown."""
        sizes = [file.size for file in self.files if file.size is not None]
        return sum(sizes) if len(sizes) == len(self.files) else None


DIGITS = Source(
    title=BUILT_IN["digits"],
    homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    license="CC BY 4.0 (digits), CC BY 2.0 (photographs)",
    citation=(
        "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998. "
        "Photographs: danielbuechele and vultilion on Flickr. Both are included in scikit-learn."
    ),
)


def names() -> tuple[str, ...]:
    """The names of all entries, in alphabetical order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def find(name: str) -> Entry:
    """The entry with a name.

    Raises:
        PipelineError: there is none; the message lists all values of `dataset`.
    """
    return read(path_of(name))


def path_of(name: str) -> Path:
    """The file of the entry with a name.

    Raises:
        PipelineError: as `find`.
    """
    if name not in names():
        known = ", ".join((*BUILT_IN, *names()))
        raise PipelineError(f"dataset: {name!r} is not known; known ones: {known} (`fcos datasets` describes them)")
    return FOLDER / f"{name}.yaml"


def is_entry(path: Path) -> bool:
    """Whether a file name is that of an entry."""
    return path.suffix.lower() in (".yaml", ".yml")


def read(path: Path) -> Entry:
    """Reads and checks the file of an entry.

    Raises:
        PipelineError: one line that names the file, the key, its value and what is allowed.
    """
    values = read_yaml(path)
    try:
        # JSON's strict mode accepts a list as a tuple, but no "1" as a number.
        return _ADAPTER.validate_json(to_json(values, str(path)), strict=True, extra="forbid")
    except ValidationError as error:
        message = describe_validation_error(error, _known_keys, patterns=_PATTERNS)
        raise PipelineError(f"{path}: {message}") from None


def entry_for(dataset: str, raw: Path) -> Entry | None:
    """The entry of the data set in the folder `raw`; None if it needs none.

    A person's own entry is read from the copy beside the data, which describes what was downloaded.
    """
    if dataset in names():
        return find(dataset)
    return read(raw / ENTRY_COPY) if (raw / ENTRY_COPY).is_file() else None


def source_of(dataset: str, raw: Path) -> Source | None:
    """Where the data set in the folder `raw` comes from; None if that isn't known."""
    return DIGITS if dataset == "digits" else entry_for(dataset, raw)


def with_splits(options: ConvertParams, entry: Entry | None) -> ConvertParams:
    """The options, with the entry's splits if params.yaml names none."""
    if entry is None or any((options.train, options.val, options.test)):
        return options
    return replace(options, train=entry.splits.train, val=entry.splits.val, test=entry.splits.test)


def summary() -> str:
    """A table with a line for each data set: name, number of images, download size, title and license."""
    rows = [(name, "", "", description) for name, description in BUILT_IN.items()]
    for name in names():
        entry = find(name)
        size = f"{entry.size / 1e9:.2f} GB" if entry.size else "size unknown"
        rows.append((name, f"{entry.images:,} images", size, f"{entry.title} ({entry.license})"))
    return format_table(rows, "lrrl")


def entry_text(name: str) -> str:
    """The text of an entry: of the one with this name, or of a person's own file, which is checked.

    Raises:
        PipelineError: there is no such entry, or the file is invalid.
    """
    if name in BUILT_IN:
        return f"{name}: {BUILT_IN[name]}"
    path = Path(name) if is_entry(Path(name)) else path_of(name)
    read(path)
    return path.read_text(encoding="utf-8").rstrip()


def _known_keys(location: Key) -> list[str]:
    kind: Any = {"files": DataFile, "splits": Splits}.get(str(location[0]) if location else "", Entry)
    return [field.name for field in fields(kind)]


_ADAPTER = TypeAdapter(Entry)
