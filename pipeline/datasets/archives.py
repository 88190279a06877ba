"""Unpacks archives that strangers made: nothing outside the folder, no links, no devices, no bombs."""

import bz2
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, NoReturn, cast

from pipeline.datasets.progress import byte_bar, format_bytes
from pipeline.errors import PipelineError

# Images hardly shrink and annotations by 20 at most; a bomb's zeros shrink by 1000.
LARGEST_RATIO = 200
# Below this an archive can't do harm, whatever its ratio: a file of few annotations shrinks a lot.
SMALL = 64 << 20
_CHUNK = 1 << 20
_BLOCK = 512  # bytes of a tar header
_LARGEST_HEADER = 4 * _CHUNK  # of tar, with the names that follow it: read whole into memory
_LOCAL_HEADER = 30  # bytes of a zip member's, at least
_DIRECTORY_END = b"PK\x05\x06"  # and where in it the number of members stands
_COUNT = slice(10, 12)
_COUNT_ELSEWHERE = 0xFFFF  # in zip64
_LONGEST_END = 22 + 65535  # with the comment behind it
_ENCRYPTED = 1  # bit 0 of a zip member's flags
_DRIVE = re.compile("[A-Za-z]:")
_TAR_COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
# What the readers of archives raise for bytes that are not what they should be.
_CORRUPT = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, struct.error),
    *(EOFError, ValueError, OverflowError, IndexError),
)

Member = tuple[str, int, IO[bytes] | None]  # name, size in bytes, and content; None for a folder


def is_archive(path: Path) -> bool:
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))
    except _CORRUPT:
        return True  # a compressed one that ends too early
    except OSError:
        return False


def visible_entries(folder: Path) -> list[Path]:
    """What lies in a folder, hidden files apart.

    Raises:
        PipelineError: it can't be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise PipelineError(f"{folder}: can't be read: {error.strerror}") from None


def find_archive(path: Path) -> Path | None:
    """The archive that a path means: itself, or what alone lies in a folder; None for a folder of anything else."""
    if not path.is_dir():
        return path
    inside = visible_entries(path)
    return inside[0] if len(inside) == 1 and is_archive(inside[0]) else None


def unpack(archive: Path, into: Path) -> None:
    """Unpacks a .zip, .tar or compressed .tar into the folder `into`, without replacing files.

    The content determines the kind of archive, not the file name.

    Several archives may go into one folder. After an error the folder may hold a part of the archive: use
    `pipeline.files.atomic_replace`.

    Raises:
        PipelineError: it is not an archive, empty, truncated, corrupt or encrypted; a member would land outside the
            folder, is there already, or is no plain file or folder; or it would take more budget than the disk has or
            than is plausible.
    """
    into.mkdir(parents=True, exist_ok=True)
    folders = {into}
    with (
        _one_line(archive),
        archive.open("rb") as raw,
        byte_bar(f"unpacking {archive.name}", archive.stat().st_size) as shown,
    ):
        budget = SizeBudget(archive, shutil.disk_usage(into).free)
        for name, size, content in _members(archive, raw, budget):
            target = into / _safe(archive, name)
            budget.members += 1
            folder = target if content is None else target.parent
            if folder not in folders:
                folder.mkdir(parents=True, exist_ok=True)
                folders.add(folder)
            if content is not None:
                _write(archive, name, target, content, size, budget)
            shown.update(max(0, raw.tell() - shown.n))
    if not budget.members:
        raise PipelineError(f"{archive}: nothing is in it; fetch it again or pack it anew")


@dataclass
class SizeBudget:
    """How much an archive may unpack to: counted as it is written, since headers may lie."""

    archive: Path
    free: int  # bytes
    taken: int = field(default=0, init=False)
    members: int = field(default=0, init=False)

    def announce(self, size: int) -> None:
        """What the archive says it will take."""
        if size > self.free:
            raise PipelineError(f"{self.archive}: unpacks to {format_bytes(size)}, and {self._free()}")

    def take(self, size: int, member: str) -> None:
        self.taken += size
        if self.taken > SMALL and self.taken > LARGEST_RATIO * self.archive.stat().st_size:
            raise PipelineError(
                f"{self.archive}: {_plain(member)}: unpacks to more than {LARGEST_RATIO} times its size, like a bomb; "
                "unpack it yourself if you trust it, and give the folder"
            )
        if self.taken > self.free:
            raise PipelineError(
                f"{self.archive}: {_plain(member)}: unpacks to {format_bytes(self.taken)} and more, and {self._free()}"
            )

    def _free(self) -> str:
        return f"{format_bytes(self.free)} are free on the disk: make room"


def _members(archive: Path, raw: IO[bytes], budget: SizeBudget) -> Iterator[Member]:
    # A .tar may end with a .zip as its last member, and would pass for that one.
    if tarfile.is_tarfile(archive):
        return _tar_members(archive, raw, budget)
    if zipfile.is_zipfile(archive):
        return _zip_members(archive, raw, budget)
    raise PipelineError(f"{archive}: not a whole .zip, .tar or .tar.gz archive; fetch it again or pack it anew")


def _zip_members(archive: Path, raw: IO[bytes], budget: SizeBudget) -> Iterator[Member]:
    with zipfile.ZipFile(raw) as opened:
        members = opened.infolist()
        _all_listed(archive, raw, len(members))
        _apart(archive, opened)
        budget.announce(sum(member.file_size for member in members))
        for member in members:
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


def _all_listed(archive: Path, raw: IO[bytes], found: int) -> None:
    """Python's reader doesn't look at how many there should be: one damaged length swallows the next member."""
    raw.seek(max(0, archive.stat().st_size - _LONGEST_END))
    end = raw.read()
    told = int.from_bytes(end[end.rindex(_DIRECTORY_END) :][_COUNT], "little")
    if told not in (found % 2**16, _COUNT_ELSEWHERE):  # writers that know no zip64 count on from 0
        raise PipelineError(f"{archive}: truncated or corrupt ({found} of {told} members listed); fetch it again")


def _apart(archive: Path, opened: zipfile.ZipFile) -> None:
    """A bomb needs no high ratio if its members share their bytes (D. Fifield, A better zip bomb, 2019)."""
    members = sorted(opened.infolist(), key=lambda member: member.header_offset)
    ends = [member.header_offset + _LOCAL_HEADER + member.compress_size for member in members]
    starts = [*(member.header_offset for member in members[1:]), opened.start_dir]
    for member, end, start in zip(members, ends, starts, strict=False):
        if end > start:
            _refuse(archive, member.filename, "shares its bytes with another, like a bomb, or the archive is corrupt")


def _tar_members(archive: Path, raw: IO[bytes], budget: SizeBudget) -> Iterator[Member]:
    stream = _Stream(_decompressed(raw))
    # Its seek and read are all that tarfile uses of a file.
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as opened:
        last = ""
        if stream.content is raw:
            budget.announce(archive.stat().st_size)
        for member in opened:
            last = member.name
            if member.isdir():
                yield member.name, 0, None
            elif member.isreg() and (content := opened.extractfile(member)) is not None:
                yield member.name, member.size, content
            else:
                _refuse(archive, member.name, "is a link or a device")
            opened.members.clear()  # type: ignore[attr-defined]  # it would keep each: 100 MB for COCO's images
        _end(archive, stream, opened.offset, last, budget)


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    begin = raw.read(6)
    raw.seek(0)
    for magic, opened in _TAR_COMPRESSIONS.items():
        if begin.startswith(magic):
            return cast("IO[bytes]", opened(raw))
    return raw


@dataclass(frozen=True)
class _Stream:
    """A tar's bytes, of which tarfile may not ask for so many at once that memory ends: a header's size may lie."""

    content: IO[bytes]

    def read(self, size: int) -> bytes:
        if size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self.content.read(size)

    def seek(self, place: int) -> int:
        return self.content.seek(place)

    def tell(self) -> int:
        return self.content.tell()


def _end(archive: Path, stream: _Stream, offset: int, last: str, budget: SizeBudget) -> None:
    """Reads what follows the last member: only at its end does a compressed stream tell whether it is the right one.

    tarfile takes a header that is cut off or damaged for the end. The true end is a block of zeros, and no archive
    follows it, which tarfile would not have seen.
    """
    stream.seek(offset)
    rest = stream.read(_CHUNK)
    if rest[:_BLOCK] != bytes(_BLOCK):
        raise PipelineError(f"{archive}: truncated or corrupt after {_plain(last)}; fetch it again")
    while rest:
        budget.take(len(rest), "what follows its end")
        if any(rest[place : place + 5] == b"ustar" for place in range(257, len(rest), _BLOCK)):
            raise PipelineError(f"{archive}: another archive follows {_plain(last)}; pack them as one, or apart")
        rest = stream.read(_CHUNK)


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or _DRIVE.match(name):
        _refuse(archive, name, "would land outside the folder")
    return path


def _write(archive: Path, name: str, target: Path, content: IO[bytes], size: int, budget: SizeBudget) -> None:
    try:
        file = target.open("xb")
    except FileExistsError:
        _refuse(archive, name, "is there already: in it twice, in another archive, or with other capitals")
    with file, _naming(archive, name):
        left = size
        while chunk := content.read(_CHUNK):
            budget.take(len(chunk), name)
            left -= len(chunk)
            file.write(chunk)
    if left:
        raise PipelineError(f"{archive}: {_plain(name)}: truncated; fetch it again")


def _refuse(archive: Path, name: str, why: str) -> NoReturn:
    raise PipelineError(f"{archive}: {_plain(name)}: {why}; such a member is not unpacked: pack it anew without it")


@contextmanager
def _naming(archive: Path, name: str) -> Iterator[None]:
    """Names the member in whose bytes a fault was found."""
    try:
        yield
    except _CORRUPT as error:
        raise PipelineError(f"{archive}: {_plain(name)}: {_corrupt(error)}") from None
    except NotImplementedError as error:
        raise PipelineError(f"{archive}: {_plain(name)}: {_unknown(error)}") from None


@contextmanager
def _one_line(archive: Path) -> Iterator[None]:
    """Says in one line what the readers of archives and the system report in many ways."""
    try:
        yield
    except _CORRUPT as error:
        raise PipelineError(f"{archive}: {_corrupt(error)}") from None
    except NotImplementedError as error:
        raise PipelineError(f"{archive}: {_unknown(error)}") from None
    except OSError as error:
        place = f"{_plain(str(error.filename))}: " if error.filename and error.filename != str(archive) else ""
        raise PipelineError(f"{archive}: not unpacked: {place}{error.strerror or error}") from None


def _corrupt(error: Exception) -> str:
    return f"truncated or corrupt ({_plain(str(error) or type(error).__name__)}); fetch it again"


def _unknown(error: Exception) -> str:
    """Windows packs large files by Deflate64, which Python has no reader for."""
    return f"packed in a way that is not known here ({error}); unpack it yourself, and give the folder"


def _plain(name: str) -> str:
    """A name in one line, whatever is in it."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
