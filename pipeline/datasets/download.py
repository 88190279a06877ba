"""Files from the network, a mirror or a person's hands: whole, verified, or one line that says what to do."""

import hashlib
import os
import shutil
import string
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from pipeline.datasets.http import Part, RetryPolicy, SourceError, Transfer, session
from pipeline.datasets.progress import byte_bar, format_bytes
from pipeline.errors import PipelineError
from pipeline.workspace import from_root

CHECKSUMS = {"md5": 32, "sha1": 40, "sha256": 64}  # and how many hexadecimal digits each has
_CHUNK = 1 << 20
_RESERVED = (".part", ".part.json")  # what lies beside a file while it comes


@dataclass(frozen=True)
class File:
    """A file as its publisher describes it.

    Without a size and a checksum, a server that says how long the file is has to be believed.
    """

    name: str  # a plain one, without folders
    urls: tuple[str, ...]  # http or https, tried in turn
    size: int | None  # bytes
    checksum: str | None  # "md5:…", "sha1:…" or "sha256:…", in hexadecimal


def fetch(
    files: Sequence[File],
    into: Path,
    mirror: str | None = None,
    *,
    unpacked: int = 0,
    retry_policy: RetryPolicy | None = None,
) -> list[Path]:
    """Brings files into a folder; what is there, from a person or an earlier run, is verified and used.

    A file gets its name only when it is whole and its size and checksum are right. Until then it is `<name>.part`,
    which a later call continues. Proxies are taken from the environment (`http_proxy`, `https_proxy`, `no_proxy`).

    Args:
        into: a folder that outlives a run which is cut.
        mirror: another place for all files, by their names: an http(s) address or a folder; a relative one is the
            project's. Their own addresses aren't asked then.
        unpacked: bytes that their content will take on the same disk; 0 where that isn't known.
        retry_policy: with servers; None: the usual one.

    Returns:
        Their paths, in order.

    Raises:
        PipelineError: what failed at which address, and what to do; or there is too little room on the disk.
    """
    for file in files:
        _check(file)
    if len({file.name for file in files}) < len(files):
        raise PipelineError(f"{into}: two files of one name: {', '.join(sorted(file.name for file in files))}")
    with _one_line(into), _alone(into):
        missing = [file for file in files if not _there(file, into)]
        _room(missing, into, unpacked)
        for file in missing:
            part = _part(file, into)
            if mirror is None or _is_address(mirror):
                _download(file, _addresses(file, mirror), part, retry_policy or RetryPolicy())
            else:
                _copy(file, _folder(mirror), part)
            _finish(part, into / file.name)
    return [into / file.name for file in files]


def find_mismatch(path: Path, file: File) -> str | None:
    """What is wrong with a file's size or checksum, found and expected; None: nothing."""
    size = path.stat().st_size
    if file.size not in (None, size):
        return f"has {size:,} bytes where {file.size:,} are published"
    if file.checksum is None:
        return None
    kind, expected = file.checksum.split(":")
    found = _hash(path, kind)
    return None if found == expected.lower() else f"has {kind} {found} where {expected.lower()} is published"


def _hash(path: Path, kind: str) -> str:
    total, told = path.stat().st_size, hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file, byte_bar(f"checking {path.name.removesuffix('.part')}", total) as shown:
        while chunk := file.read(_CHUNK):
            told.update(chunk)
            shown.update(len(chunk))
    return told.hexdigest()


def _check(file: File) -> None:
    """What a person writes into an entry of their own may be wrong in many ways."""
    name = file.name
    plain = (
        name != "" and name.isprintable() and Path(name).name == name and "\\" not in name and not name.startswith(".")
    )
    if not plain or name.endswith(_RESERVED):
        raise PipelineError(f"{name!r}: a file's name is a plain one: no folders, no leading dot, no .part at its end")
    for url in file.urls:
        if not _is_address(url):
            raise PipelineError(f"{name}: {url!r} is no address: it should begin with https:// or http://")
    if file.size is not None and file.size < 0:
        raise PipelineError(f"{name}: its size can't be {file.size} bytes")
    if file.checksum is not None:
        kind, _, digits = file.checksum.partition(":")
        if len(digits) != CHECKSUMS.get(kind) or not set(digits) <= set(string.hexdigits):
            known = ", ".join(f"{known}:… ({count} digits)" for known, count in CHECKSUMS.items())
            raise PipelineError(f"{name}: {file.checksum!r} is no checksum: known are {known}")


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable() and " " not in text


def _addresses(file: File, mirror: str | None) -> tuple[str, ...]:
    return file.urls if mirror is None else (f"{mirror.rstrip('/')}/{quote(file.name)}",)


def _folder(mirror: str) -> Path:
    if "://" in mirror:
        raise PipelineError(f"download.mirror: {mirror!r} is neither an address (https:// or http://) nor a folder")
    return from_root(Path(mirror).expanduser())


def _part(file: File, into: Path) -> Part:
    return Part(into / f"{file.name}.part")


def _there(file: File, into: Path) -> bool:
    path = into / file.name
    if not path.is_file():
        return False
    if problem := find_mismatch(path, file):
        raise PipelineError(f"{path}: {problem}: put the right file there, or delete it to have it fetched")
    _part(file, into).discard()  # a person was faster
    return True


def _room(missing: Sequence[File], into: Path, unpacked: int) -> None:
    coming = sum(max(0, (file.size or 0) - _part(file, into).length()) for file in missing)
    free = shutil.disk_usage(into).free
    if coming + unpacked > free:
        raise PipelineError(
            f"{into}: {format_bytes(coming)} to fetch and {format_bytes(unpacked)} to unpack need "
            f"{format_bytes(coming + unpacked)}, and {format_bytes(free)} are free on this disk: make room"
        )


def _download(file: File, addresses: Sequence[str], part: Part, retry_policy: RetryPolicy) -> None:
    """Tries each address in turn."""
    told: list[str] = []
    with session(retry_policy) as opened:
        for url in addresses:
            transfer = Transfer(opened, url, part, file.size, file.checksum is not None, retry_policy)
            try:
                return _verified(transfer, file)
            except SourceError as why:
                told.append(_plain(f"{_shown(url)}: {why}"))
                if url != addresses[-1]:
                    _say(f"{told[-1]}; trying the next address")
    raise PipelineError(_failed(file, told, part))


def _verified(transfer: Transfer, file: File) -> None:
    """Where a file was put together from several answers and is wrong, it is fetched once more in one piece."""
    joined, problem = True, None
    while joined:
        joined = transfer.run() and problem is None
        problem = find_mismatch(transfer.part.path, file)
        if problem is None:
            return
        transfer.part.discard()
    raise SourceError(str(problem))


def _failed(file: File, told: Sequence[str], part: Part) -> str:
    target = part.path.with_name(file.name)
    if not told:
        return f"{target}: its publisher gives no address to fetch it from: put it there by hand"
    kept = f" ({format_bytes(part.length())} of it are kept and will be continued)" if part.length() else ""
    return (
        f"{target}: not fetched: {'; '.join(told)}. Try again later{kept}, set download.mirror to a place that has it, "
        "or put it there by hand"
    )


def _copy(file: File, folder: Path, part: Part) -> None:
    source = folder / file.name
    if not source.is_file():
        raise PipelineError(f"{source}: no such file in the mirror; put it there, or set download.mirror to null")
    part.discard()
    with source.open("rb") as old, part.path.open("wb") as new, byte_bar(file.name, source.stat().st_size) as shown:
        while chunk := old.read(_CHUNK):
            new.write(chunk)
            shown.update(len(chunk))
    if problem := find_mismatch(part.path, file):
        part.discard()
        raise PipelineError(f"{source}: {problem}: put the right file there, or set download.mirror to null")


def _finish(part: Part, target: Path) -> None:
    with part.path.open("rb") as written:
        os.fsync(written.fileno())
    part.path.rename(target)
    part.discard()


@contextmanager
def _alone(into: Path) -> Iterator[None]:
    """One process at a time; the next one finds what this one has fetched."""
    into.mkdir(parents=True, exist_ok=True)
    lock = FileLock(into / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _say(f"{into}: waiting for another process that fetches into it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _one_line(into: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PipelineError(
            f"{error.filename or into}: {error.strerror or error}: nothing can be fetched there"
        ) from None


def _say(line: str) -> None:
    tqdm.write(f"download: {line}", file=sys.stderr)


def _shown(url: str) -> str:
    """An address without a name and password that may stand in it."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _plain(text: str) -> str:
    """One line, whatever a server put into it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
