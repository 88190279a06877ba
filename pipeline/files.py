"""Files that are written completely or not at all, JSON with one-line errors, digests."""

import codecs
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Any

from pipeline.errors import PipelineError


@contextmanager
def atomic_replace(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`; the file or folder written there replaces `path` on success.

    A file is flushed to disk before it is renamed, so that a crash leaves either the old file or the new one. After an
    exception, the temporary file or folder is removed and `path` is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    # The suffix stays last: libraries choose a file's format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    remove(temporary)
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        elif path.is_dir():
            shutil.rmtree(path)  # rename can't replace a folder that has content
        temporary.rename(path)
    finally:
        remove(temporary)


def _remove_abandoned(path: Path) -> None:
    """Removes temporary files for `path` of processes that were killed."""
    # A regular expression, since a glob pattern would give the brackets of a file name a meaning.
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.([0-9]+)\.partial{re.escape(path.suffix)}")
    for other in path.parent.iterdir():
        match = pattern.fullmatch(other.name)
        if match and not _is_running(int(match[1])):
            with suppress(OSError):  # another user's, or removed in the meantime
                remove(other)


def _is_running(pid: int) -> bool:
    if not pid:  # os.kill would take 0 for the own process group
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # a stray file may have any number in its name
        return False
    except PermissionError:  # another user's process
        return True
    return True


def remove(path: Path) -> None:
    """Removes a file, a link or a whole folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text with Unix line ends, atomically."""
    with atomic_replace(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def require_new_folder(out: Path) -> None:
    """Checks that a folder is empty or doesn't exist.

    Raises:
        PipelineError: it has content, or is a file.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PipelineError(f"{out}: already exists; choose another --out, or remove it")


@contextmanager
def write_errors(out: Path) -> Iterator[None]:
    """Turns the errors of an operating system that refuses to write into `out` into a PipelineError."""
    try:
        yield
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another --out"
        reason = (error.strerror or str(error)).lower()
        raise PipelineError(f"{error.filename or out}: can't be written: {reason}; {remedy}") from None


def move_files(folder: Path, out: Path) -> None:
    """Moves the files of a folder into another one, sorted, each whole or not at all, to another file system as well.

    Raises:
        PipelineError: a file can't be written.
    """
    for file in sorted(folder.iterdir()):
        with write_errors(out):
            try:
                with atomic_replace(out / file.name) as temporary:
                    shutil.move(file, temporary)
            except OSError as error:
                error.filename = None  # of the file that is read
                raise


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes JSON with a final newline, atomically.

    Raises:
        ValueError: a number is NaN or infinite, which JSON doesn't have.
    """
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        PipelineError: the file is missing, or `parse_json` fails.
    """
    try:
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None


def parse_json(
    content: bytes, path: PurePath, object_hook: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> Any:
    """Parses a file's content as JSON.

    Args:
        path: the file's name in error messages.
        object_hook: as in json.loads.

    Raises:
        PipelineError: the content isn't JSON (with line and column), or Python can't represent it.
    """
    if not content.strip(b"\xef\xbb\xbf \t\r\n"):
        raise PipelineError(f"{path}: not JSON: the file is empty")
    try:
        return json.loads(to_utf8(content).decode(), object_hook=object_hook)
    except json.JSONDecodeError as error:
        raise PipelineError(f"{path}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{path}: not JSON: it is not UTF-8 text") from None
    except ValueError as error:  # an integer of thousands of digits
        raise PipelineError(f"{path}: not read: {str(error).split(';')[0]}") from None
    except RecursionError:
        raise PipelineError(f"{path}: not read: its lists are nested too deeply") from None


def to_utf8(content: bytes) -> bytes:
    """The content of a text file without its byte order mark, which programs on Windows write; UTF-16 becomes UTF-8."""
    if content.startswith(codecs.BOM_UTF8):
        return content.removeprefix(codecs.BOM_UTF8)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and len(content) > 2:
        with suppress(UnicodeError):
            return content.decode("utf-16").encode()
    return content


def digest(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unique_jpg_names(paths: Sequence[Path]) -> list[str]:
    """A distinct .jpg file name for each path: its stem, with a number if the name is taken."""
    names: dict[str, None] = {}
    for path in paths:
        numbered = (f"{path.stem}-{number}.jpg" for number in count(2))
        names[next(name for name in chain([f"{path.stem}.jpg"], numbered) if name not in names)] = None
    return list(names)
