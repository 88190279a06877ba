"""Fetches a data set's files from the network or a mirror, resumes interrupted downloads and verifies the result."""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from pipeline.datasets.http import PartialFile, RetryPolicy, SourceError, Transfer, make_session
from pipeline.datasets.progress import byte_bar, format_bytes
from pipeline.datasets.registry import DataFile
from pipeline.errors import PipelineError
from pipeline.workspace import from_root

_CHUNK = 1 << 20  # bytes


def fetch(
    files: Sequence[DataFile],
    into: Path,
    mirror: str | None = None,
    *,
    unpacked: int = 0,
    retry_policy: RetryPolicy | None = None,
) -> list[Path]:
    """Downloads files into a folder. A file that is already there is verified and used.

    A download is called `<name>.part` until its size and checksum have been verified; a later call resumes it. Proxies
    come from the environment (`http_proxy`, `https_proxy`, `no_proxy`).

    Args:
        into: a folder that outlives an interrupted run.
        mirror: a location that is used instead of the files' own URLs: an http(s) address or a folder, where relative
            paths start at the project's root.
        unpacked: bytes that the unpacked content will need on the same disk; 0 if unknown.

    Returns:
        The paths of the files, in order.

    Raises:
        PipelineError: a file can't be fetched or verified, or the disk is too small.
    """
    with _one_line_errors(into), _locked(into):
        missing = [file for file in files if not _is_complete(file, into)]
        _check_free_space(missing, into, unpacked)
        for file in missing:
            part = _part(file, into)
            if mirror is None or _is_url(mirror):
                urls = file.urls if mirror is None else (f"{mirror.rstrip('/')}/{quote(file.name)}",)
                _download(file, urls, part, retry_policy or RetryPolicy())
            else:
                _copy(file, _mirror_folder(mirror), part)
            _finish(part, into / file.name)
    return [into / file.name for file in files]


def find_mismatch(path: Path, file: DataFile) -> str | None:
    """How a file's size or checksum differs from the published one; None if both match."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return f"has {size:,} bytes where {file.size:,} are published"
    if file.checksum is None:
        return None
    algorithm, expected = file.checksum.split(":")
    actual = _hash(path, algorithm)
    return None if actual == expected else f"has {algorithm} {actual} where {expected} is published"


def _hash(path: Path, algorithm: str) -> str:
    hasher = hashlib.new(algorithm, usedforsecurity=False)
    name = path.name.removesuffix(".part")
    with path.open("rb") as file, byte_bar(f"checking {name}", path.stat().st_size) as bar:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
            bar.update(len(chunk))
    return hasher.hexdigest()


def _is_url(text: str) -> bool:
    try:
        return urlsplit(text).scheme in ("http", "https")
    except ValueError:  # such as an address with half a pair of brackets
        return False


def _mirror_folder(mirror: str) -> Path:
    if "://" in mirror:
        raise PipelineError(f"download.mirror: {mirror!r} is neither an address (https:// or http://) nor a folder")
    return from_root(Path(mirror).expanduser())


def _part(file: DataFile, into: Path) -> PartialFile:
    return PartialFile(into / f"{file.name}.part")


def _is_complete(file: DataFile, into: Path) -> bool:
    path = into / file.name
    if not path.is_file():
        return False
    if mismatch := find_mismatch(path, file):
        raise PipelineError(f"{path}: {mismatch}: put the right file there, or delete it to have it fetched")
    _part(file, into).discard()  # a person may have added the file after an interrupted download
    return True


def _check_free_space(missing: Sequence[DataFile], into: Path, unpacked: int) -> None:
    size = sum(max(0, (file.size or 0) - _part(file, into).length()) for file in missing)
    free = shutil.disk_usage(into).free
    if size + unpacked > free:
        raise PipelineError(
            f"{into}: {format_bytes(size)} to fetch and {format_bytes(unpacked)} to unpack need "
            f"{format_bytes(size + unpacked)}, and {format_bytes(free)} are free on this disk: free some space"
        )


def _download(file: DataFile, urls: Sequence[str], part: PartialFile, retry_policy: RetryPolicy) -> None:
    """Tries each URL in turn."""
    errors: list[str] = []
    with make_session(retry_policy) as session:
        for url in urls:
            transfer = Transfer(session, url, part, file.size, file.checksum is not None, retry_policy)
            try:
                return _transfer(transfer, file)
            except SourceError as error:
                errors.append(_printable(f"{_without_credentials(url)}: {error}"))
                if url != urls[-1]:
                    _write_line(f"{errors[-1]}; trying the next address")
    raise PipelineError(_failure_message(part.path.with_name(file.name), errors, part))


def _transfer(transfer: Transfer, file: DataFile) -> None:
    """Downloads and verifies a file. A wrong file that was joined from several responses is fetched again as a whole.

    Raises:
        SourceError: the transfer fails, or the file doesn't match.
    """
    for may_be_joined in (True, False):
        joined = transfer.run()
        mismatch = find_mismatch(transfer.part.path, file)
        if mismatch is None:
            return
        transfer.part.discard()
        if not (joined and may_be_joined):
            raise SourceError(mismatch)


def _failure_message(target: Path, errors: Sequence[str], part: PartialFile) -> str:
    if not errors:
        return f"{target}: the entry has no address to fetch it from: put it there by hand"
    kept = f" ({format_bytes(part.length())} of it are kept and will be resumed)" if part.length() else ""
    return (
        f"{target}: not fetched: {'; '.join(errors)}. Try again later{kept}, set download.mirror to a location that "
        "has it, or put it there by hand"
    )


def _copy(file: DataFile, folder: Path, part: PartialFile) -> None:
    source = folder / file.name
    if not source.is_file():
        raise PipelineError(f"{source}: no such file in the mirror; put it there, or set download.mirror to null")
    part.discard()
    with source.open("rb") as old, part.path.open("wb") as new, byte_bar(file.name, source.stat().st_size) as bar:
        while chunk := old.read(_CHUNK):
            new.write(chunk)
            bar.update(len(chunk))
    if mismatch := find_mismatch(part.path, file):
        part.discard()
        raise PipelineError(f"{source}: {mismatch}: put the right file there, or set download.mirror to null")


def _finish(part: PartialFile, target: Path) -> None:
    """Flushes a verified download to disk and renames it."""
    with part.path.open("rb") as file:
        os.fsync(file.fileno())
    part.path.rename(target)
    part.discard()


@contextmanager
def _locked(into: Path) -> Iterator[None]:
    """Lets one process at a time download into a folder."""
    into.mkdir(parents=True, exist_ok=True)
    lock = FileLock(into / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _write_line(f"{into}: waiting for another process that downloads into it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _one_line_errors(into: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PipelineError(f"{error.filename or into}: {error.strerror or error}: can't download there") from None


def _write_line(line: str) -> None:
    tqdm.write(f"download: {line}", file=sys.stderr)


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _printable(text: str) -> str:
    """Replaces what a server may have sent to break or color the line."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
