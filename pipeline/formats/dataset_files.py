"""Reading of a data set's folder: its list of files, parts of files, and lines of text files."""

import os
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.files import to_utf8
from pipeline.formats.split_kinds import split_kind
from pipeline.formats.text import fold_name, is_utf8, spelling_distance


def list_files(folder: Path) -> list[PurePosixPath]:
    """All files below `folder` as sorted relative paths, without hidden files and macOS metadata.

    Symbolic links to folders are followed; each folder is listed once.

    Raises:
        PipelineError: A folder can't be read, or a file's name isn't UTF-8, which JSON can't represent.
    """
    return [PurePosixPath(path) for path in _walk(folder)]


def _walk(folder: Path) -> Iterator[str]:
    """Paths sorted by their parts: the files in `a` come before `a.txt`."""
    visited: set[tuple[int, int]] = set()
    stack = [("", True)]
    while stack:
        path, is_folder = stack.pop()
        if not is_folder:
            yield path
        elif (identity := _identity(folder / path)) not in visited:
            visited.add(identity)
            stack.extend(reversed(_list_entries(folder, path)))


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError as error:
        raise PipelineError(f"{folder}: can't be read: {error.strerror}") from None
    return status.st_dev, status.st_ino


def _list_entries(folder: Path, path: str) -> list[tuple[str, bool]]:
    """The entries of a folder, sorted by name: the path of each, and whether it is a folder."""
    try:
        with os.scandir(folder / path) as entries:
            listed = [(entry.name, entry.is_dir()) for entry in entries if entry.is_dir() or entry.is_file()]
    except OSError as error:
        raise PipelineError(f"{folder / path}: can't be read: {error.strerror}") from None
    for name, _ in listed:
        if not name.isascii() and not is_utf8(name):
            raise PipelineError(f"{folder / path}: file name {name!r} is not UTF-8; rename the file")
    visible = [(name, is_folder) for name, is_folder in listed if not name.startswith(".") and name != "__MACOSX"]
    return [(f"{path}/{name}" if path else name, is_folder) for name, is_folder in sorted(visible)]


def read_head(path: Path, size: int = 4096) -> bytes:
    """A file's first `size` bytes. Those of UTF-16 text with a byte order mark become UTF-8.

    Raises:
        PipelineError: The file can't be read.
    """
    content = _read_part(path, 0, size)
    if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) and len(content) > 2:
        return content.decode("utf-16", errors="ignore").encode()  # the last character may be cut in two
    return content


def read_tail(path: Path, size: int) -> bytes:
    """A file's last `size` bytes. Those of UTF-16 text with a byte order mark become UTF-8.

    Raises:
        PipelineError: The file can't be read.
    """
    codec = {BOM_UTF16_LE: "utf-16-le", BOM_UTF16_BE: "utf-16-be"}.get(_read_part(path, 0, 2))
    start = max(0, path.stat().st_size - size)
    if codec is None:
        return _read_part(path, start, size)
    return _read_part(path, start & ~1, size + 1).decode(codec, errors="ignore").encode()


def _read_part(path: Path, start: int, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(size)
    except OSError as error:
        raise PipelineError(f"{path}: can't be read: {error.strerror}") from None


def read_lines(folder: Path, file: PurePosixPath) -> list[str]:
    """The lines of a text file, stripped, without empty ones.

    Raises:
        PipelineError: The file can't be read, or isn't UTF-8 text.
    """
    return [line for _, line in read_numbered_lines(folder, file)]


def read_numbered_lines(folder: Path, file: PurePosixPath) -> list[tuple[int, str]]:
    """Like `read_lines`, each line with its number in the file."""
    try:
        lines = decode_text((folder / file).read_bytes()).splitlines()
    except OSError as error:
        raise PipelineError(f"{file}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{file}: not UTF-8 text") from None
    return [(number, stripped) for number, line in enumerate(lines, 1) if (stripped := line.strip())]


def decode_text(content: bytes) -> str:
    """Text in UTF-8, or in UTF-16 with a byte order mark, as PowerShell writes it.

    Raises:
        UnicodeDecodeError: The content is neither.
    """
    return to_utf8(content).decode()


def refuse_empty_splits(folder: Path, files: Iterable[PurePosixPath], suffix: str) -> None:
    """Makes sure that no annotation file that is named like a split is empty.

    Raises:
        PipelineError: One is.
    """
    for file in files:
        if file.suffix.lower() == suffix and split_kind(str(file.with_suffix(""))) and is_blank(folder / file):
            raise PipelineError(f"{file}: the file is empty; export or download it again, or remove it")


def is_blank(path: Path) -> bool:
    """Whether a file has no content but white space."""
    return not read_head(path).strip(b"\xef\xbb\xbf \t\r\n\0")


class Spellings:
    """Names or paths that are found by another spelling, too (see `text.fold_name`), unless several match equally."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)

    def find(self, name: str) -> str | None:
        if name in self._names:
            return name
        candidates = self._by_fold.get(fold_name(name), [])
        distances = [spelling_distance(candidate, name) for candidate in candidates]
        if not distances or distances.count(min(distances)) > 1:
            return None
        return candidates[distances.index(min(distances))]

    @cached_property
    def _by_fold(self) -> dict[str, list[str]]:
        by_fold: dict[str, list[str]] = defaultdict(list)
        for name in self._names:
            by_fold[fold_name(name)].append(name)
        return by_fold
