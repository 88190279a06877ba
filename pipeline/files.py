"""Files that appear whole or not at all."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path, PurePath
from typing import Any

from pipeline.errors import PipelineError


@contextmanager
def atomic_replace(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success the file or folder written there takes `path`'s place.

    A file is flushed to disk before it is renamed, so that a crash leaves the old one or the new one. On an
    error, or an interrupt, the temporary file or folder is removed and `path` stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept: libraries choose a file's format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    for left_over in path.parent.glob(f".{path.stem}.*.partial{path.suffix}"):
        if not _alive(int(left_over.name.split(".")[-2 - bool(path.suffix)])):  # of a process that was killed
            remove(left_over)
    remove(temporary)
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        elif path.is_dir():
            shutil.rmtree(path)  # a folder can't be renamed over another that isn't empty
        temporary.rename(path)
    finally:
        remove(temporary)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def remove(path: Path) -> None:
    """Removes a file or a whole folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_replace(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any, *, indent: int | None = 2) -> None:
    """Writes JSON with a final newline; NaN is refused, since other readers don't know it."""
    write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads JSON.

    Raises:
        PipelineError: the file is missing, or see `parse_json`.
    """
    try:
        return parse_json(path.read_bytes(), path)
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None


def parse_json(
    content: bytes, where: PurePath, object_hook: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> Any:
    """The JSON in the content of the file `where`; `object_hook` is json.loads'.

    Raises:
        PipelineError: it isn't JSON (with line and column), or none that can be held.
    """
    try:
        # Windows' editors put a byte order mark before it.
        return json.loads(content.decode("utf-8-sig"), object_hook=object_hook)
    except json.JSONDecodeError as error:
        raise PipelineError(f"{where}: not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except UnicodeDecodeError:
        raise PipelineError(f"{where}: not JSON: it is not UTF-8 text") from None
    except ValueError as error:  # a whole number of thousands of digits
        raise PipelineError(f"{where}: not read: {str(error).split(';')[0]}") from None
    except RecursionError:
        raise PipelineError(f"{where}: not read: its lists are nested too deeply") from None


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unique_jpg_names(paths: Sequence[Path]) -> list[str]:
    """A picture's file name for each image: its own, with a number where that is taken."""
    given: dict[str, None] = {}
    for path in paths:
        numbered = (f"{path.stem}-{number}.jpg" for number in count(2))
        given[next(name for name in chain([f"{path.stem}.jpg"], numbered) if name not in given)] = None
    return list(given)
