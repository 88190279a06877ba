"""Unpacks archives that strangers made: nothing outside the folder, no links, no devices, no bombs."""

import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import PipelineError

# Images hardly shrink and annotations by 20 at most; a bomb's zeros shrink by 1000.
LARGEST_RATIO = 200
# Below this an archive can't do harm, whatever its ratio: a file of few annotations shrinks a lot.
SMALL = 64 << 20
_CHUNK = 1 << 20
_BLOCK = 512  # bytes of a tar header
_ENCRYPTED = 1  # bit 0 of a zip member's flags
_DRIVE = re.compile("[A-Za-z]:")
# What the readers of archives raise for bytes that are not what they should be.
_CORRUPT = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)


def is_archive(path: Path) -> bool:
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except _CORRUPT:
        return True  # a compressed one that ends too early


def unpack(archive: Path, into: Path) -> None:
    """Unpacks a .zip, .tar or compressed .tar, told by its content, into the folder `into`, which must not exist yet.

    On an error the folder may hold a part: write by way of `pipeline.files.replacing`.

    Raises:
        PipelineError: it is not an archive, truncated, corrupt or encrypted; a member would land outside the
            folder or is no plain file or folder; or it would take more room than the disk has or than is plausible.
    """
    into.mkdir(parents=True)
    room = Room(archive, shutil.disk_usage(into).free)
    with _one_line(archive):
        for name, size, content in _members(archive):
            target = into / _safe(archive, name)
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
            else:
                _write(archive, name, target, content, size, room)


@dataclass
class Room:
    """How much an archive may unpack to: counted as it is written, since headers may lie."""

    archive: Path
    free: int  # bytes
    taken: int = field(default=0, init=False)

    def take(self, size: int, member: str) -> None:
        self.taken += size
        packed = self.archive.stat().st_size
        if self.taken > max(SMALL, LARGEST_RATIO * packed):
            raise PipelineError(
                f"{self.archive}: {member}: unpacks to more than {LARGEST_RATIO} times its size, like a bomb; "
                "unpack it yourself if you trust it, and give the folder"
            )
        if self.taken > self.free:
            raise PipelineError(f"{self.archive}: {member}: unpacking needs more room than the disk has free")


def _members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Name, size in bytes, and content (None for a folder) of each member."""
    if zipfile.is_zipfile(archive):
        return _zip_members(archive)
    if tarfile.is_tarfile(archive):
        return _tar_members(archive)
    raise PipelineError(f"{archive}: not a whole .zip, .tar or .tar.gz archive; fetch it again or pack it anew")


def _zip_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                _refuse(archive, member.filename, "is a link or a device")
            if member.flag_bits & _ENCRYPTED:
                _refuse(archive, member.filename, "is encrypted")
            # orig_filename: Python cuts the other one at a NUL.
            name = member.orig_filename
            if member.is_dir():
                yield name, 0, None
            else:
                with _naming(archive, name), opened.open(member) as content:
                    yield name, member.file_size, content


def _tar_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isdir():
                yield member.name, 0, None
            elif member.isreg() and (content := opened.extractfile(member)) is not None:
                yield member.name, member.size, content
            else:
                _refuse(archive, member.name, "is a link or a device")
        # tarfile takes a header that is cut off or damaged for the end; the true end is a block of zeros.
        assert opened.fileobj is not None
        opened.fileobj.seek(opened.offset)
        if opened.fileobj.read(_BLOCK) != bytes(_BLOCK):
            last = opened.getmembers()[-1].name
            raise PipelineError(f"{archive}: truncated or corrupt after {last}; fetch it again")


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or _DRIVE.match(name):
        _refuse(archive, name, "would land outside the folder")
    return path


def _write(archive: Path, name: str, target: Path, content: IO[bytes], size: int, room: Room) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        _refuse(archive, name, "is in it twice, or differs in case only")
    with _naming(archive, name), target.open("xb") as file:
        left = size
        while chunk := content.read(_CHUNK):
            room.take(len(chunk), name)
            left -= len(chunk)
            file.write(chunk)
    if left:
        raise PipelineError(f"{archive}: {name}: truncated; fetch it again")


def _refuse(archive: Path, name: str, why: str) -> None:
    shown = name.encode("unicode_escape").decode()
    raise PipelineError(f"{archive}: {shown}: {why}; such a member is not unpacked: pack it anew without it")


@contextmanager
def _naming(archive: Path, name: str) -> Iterator[None]:
    """Names the member in whose bytes a fault was found."""
    try:
        yield
    except (*_CORRUPT, NotImplementedError) as error:
        raise PipelineError(f"{archive}: {name}: truncated or corrupt ({error}); fetch it again") from None


@contextmanager
def _one_line(archive: Path) -> Iterator[None]:
    """Says in one line what the readers of archives and the system report in many ways."""
    try:
        yield
    except _CORRUPT as error:
        raise PipelineError(f"{archive}: truncated or corrupt ({error}); fetch it again") from None
    except OSError as error:
        raise PipelineError(f"{archive}: not unpacked: {error.strerror or error}") from None
