"""Unpacks archives from untrusted sources: regular files only, none outside the target folder, no archive bombs.

The filters of Python's tarfile are no replacement: they accept links, and they neither limit the unpacked size nor
notice a truncated or damaged archive.
"""

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

# Images hardly shrink, and annotations to a twentieth at most; the zeros of a bomb shrink to a thousandth.
MAX_RATIO = 200
# Bytes below which the ratio doesn't matter: a small file of few annotations may shrink a lot.
HARMLESS_SIZE = 64 << 20
_CHUNK = 1 << 20  # bytes
_BLOCK = 512  # bytes of a tar header
# Of all headers of a tar member together: bytes, which tarfile reads into memory, and reads. A long name and its
# attributes have headers of their own, and tarfile calls itself for each.
_MAX_HEADER = _CHUNK
_MAX_READS = 200
_LOCAL_HEADER = 30  # bytes of a zip member's header, without its name
_END_SIGNATURE = b"PK\x05\x06"  # of the zip's end record
_END_COUNT = slice(10, 12)  # the number of members in the end record
_ZIP64_COUNT = 0xFFFF  # the number is in the zip64 record instead
_MAX_END = 22 + 65535  # bytes of the end record with its comment
_ENCRYPTED, _UTF8 = 1, 1 << 11  # bits of a zip member's flags
_UNICODE_PATH = 0x7075  # kind of a zip member's extra field
_DRIVE = re.compile("[A-Za-z]:")
_DECOMPRESSORS: dict[bytes, Callable[[IO[bytes]], object]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
# What the readers of archives raise for damaged content.
_CORRUPT = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, struct.error),
    *(EOFError, ValueError, OverflowError, IndexError),
)

Member = tuple[str, int, IO[bytes] | None]  # name, size in bytes, and content; None for a folder


def is_archive(path: Path) -> bool:
    """Whether a file's content is that of an archive, complete or not."""
    try:
        return path.is_file() and (zipfile.is_zipfile(path) or _is_tar(path))
    except _CORRUPT:
        return True  # a truncated compressed tar
    except OSError:
        return False


def visible_entries(folder: Path) -> list[Path]:
    """The files and folders in a folder, without hidden ones, sorted.

    Raises:
        PipelineError: the folder can't be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise PipelineError(f"{folder}: can't be read: {error.strerror}") from None


def find_archive(path: Path) -> Path | None:
    """The path itself if it isn't a folder, or the archive that is a folder's only entry; None for other folders."""
    if not path.is_dir():
        return path
    entries = visible_entries(path)
    return entries[0] if len(entries) == 1 and is_archive(entries[0]) else None


def unpack(archive: Path, into: Path) -> None:
    """Unpacks a .zip, .tar or compressed .tar into the folder `into`, without replacing files.

    The content determines the kind of archive, not the file name. Several archives may be unpacked into one folder.
    After an error the folder may hold a part of the archive: use `pipeline.files.atomic_replace`.

    Raises:
        PipelineError: the file is not an archive, or is empty, truncated, corrupt or encrypted; a member would be
            outside the folder, exists already, or is neither a regular file nor a folder; or the content is larger
            than the free disk space, or implausibly large for its archive.
    """
    into.mkdir(parents=True, exist_ok=True)
    folders = {into}
    with (
        _one_line_errors(archive),
        archive.open("rb") as raw,
        byte_bar(f"unpacking {archive.name}", archive.stat().st_size) as bar,
    ):
        budget = SizeBudget(archive, shutil.disk_usage(into).free)
        for name, size, content in _members(archive, raw, budget):
            target = into / _safe_path(archive, name)
            budget.members += 1
            folder = target if content is None else target.parent
            if folder not in folders:
                folder.mkdir(parents=True, exist_ok=True)
                folders.add(folder)
            if content is not None:
                _write(archive, name, target, content, size, budget)
            bar.update(max(0, raw.tell() - bar.n))
    if not budget.members:
        raise PipelineError(f"{archive}: the archive is empty; fetch it again or pack it again")


@dataclass
class SizeBudget:
    """The size that an archive may unpack to. Bytes are counted as they are written, since headers may be wrong."""

    archive: Path
    free: int  # bytes
    written: int = field(default=0, init=False)
    members: int = field(default=0, init=False)

    def check_total(self, size: int) -> None:
        """Raises PipelineError if the total size that the archive states exceeds the free disk space."""
        if size > self.free:
            raise PipelineError(f"{self.archive}: unpacks to {format_bytes(size)}, and {self._free()}")

    def spend(self, size: int, member: str) -> None:
        """Counts bytes of a member. Raises PipelineError if the archive looks like a bomb or the disk gets full."""
        self.written += size
        if self.written > HARMLESS_SIZE and self.written > MAX_RATIO * self.archive.stat().st_size:
            raise PipelineError(
                f"{self.archive}: {_printable(member)}: unpacks to more than {MAX_RATIO} times its size, like a bomb; "
                "unpack it yourself if you trust it, and use the folder"
            )
        if self.written > self.free:
            size_text = format_bytes(self.written)
            raise PipelineError(
                f"{self.archive}: {_printable(member)}: unpacks to {size_text} and more, and {self._free()}"
            )

    def _free(self) -> str:
        return f"{format_bytes(self.free)} are free on the disk: free some space"


def _members(archive: Path, raw: IO[bytes], budget: SizeBudget) -> Iterator[Member]:
    # First tar: a .tar whose last member is a .zip also passes for that .zip.
    if _is_tar(archive):
        return _tar_members(archive, raw, budget)
    if zipfile.is_zipfile(archive):
        return _zip_members(archive, raw, budget)
    problem = "not a complete .zip, .tar or .tar.gz archive" if archive.stat().st_size else "the file is empty"
    raise PipelineError(f"{archive}: {problem}; fetch it again or pack it again")


def _zip_members(archive: Path, raw: IO[bytes], budget: SizeBudget) -> Iterator[Member]:
    with zipfile.ZipFile(raw) as opened:
        members = opened.infolist()
        _check_zip_count(archive, raw, len(members))
        _check_zip_overlaps(archive, opened)
        budget.check_total(sum(member.file_size for member in members))
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                _refuse(archive, member.filename, "is a link or a device")
            if member.flag_bits & _ENCRYPTED:
                _refuse(archive, member.filename, "is encrypted")
            name = _zip_name(member)
            if name.endswith(("/", "\\")):
                yield name, 0, None
            else:
                with _one_line_errors(archive, name), opened.open(member) as content:
                    yield name, member.file_size, content


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name, which many programs write as UTF-8 without saying so (Info-ZIP, macOS).

    The name in the extra field for Unicode comes first. A name that is no UTF-8 is in code page 437, as the format's
    specification says.
    """
    name = member.orig_filename  # Python cuts `filename` at a NUL
    if member.flag_bits & _UTF8:
        return name
    raw = name.encode("cp437")
    for candidate in filter(None, (_unicode_extra(member.extra, raw), raw)):
        try:
            return candidate.decode()
        except UnicodeDecodeError:
            continue
    return name


def _unicode_extra(extra: bytes, raw_name: bytes) -> bytes:
    """The name in Info-ZIP's Unicode Path Extra Field; empty if there is none, or it belongs to another name."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[:5] == struct.pack("<BI", 1, zlib.crc32(raw_name)):
            return field[5:]
    return b""


def _check_zip_count(archive: Path, raw: IO[bytes], count: int) -> None:
    """Compares the number of members with the end record: one damaged length makes zipfile skip the next member."""
    raw.seek(max(0, archive.stat().st_size - _MAX_END))
    end = raw.read()
    stated = int.from_bytes(end[end.rindex(_END_SIGNATURE) :][_END_COUNT], "little")
    if stated not in (count % 2**16, _ZIP64_COUNT):  # programs without zip64 count modulo 65,536
        raise PipelineError(f"{archive}: truncated or corrupt ({count} of {stated} members listed); fetch it again")


def _check_zip_overlaps(archive: Path, opened: zipfile.ZipFile) -> None:
    """A bomb whose members share their bytes has no high ratio (D. Fifield, A better zip bomb, 2019)."""
    members = sorted(opened.infolist(), key=lambda member: member.header_offset)
    ends = [member.header_offset + _LOCAL_HEADER + member.compress_size for member in members]
    starts = [*(member.header_offset for member in members[1:]), opened.start_dir]
    for member, end, start in zip(members, ends, starts, strict=False):
        if end > start:
            _refuse(archive, member.filename, "shares its bytes with another, like a bomb, or the archive is corrupt")


def _is_tar(archive: Path) -> bool:
    """As tarfile.is_tarfile, which reads headers of any size and number."""
    with archive.open("rb") as raw:
        try:
            tarfile.open(fileobj=cast("IO[bytes]", _TarStream(_decompressed(raw))), mode="r:").close()
        except tarfile.TarError:
            return False
        return True


def _tar_members(archive: Path, raw: IO[bytes], budget: SizeBudget) -> Iterator[Member]:
    stream = _TarStream(_decompressed(raw))
    # tarfile uses nothing but read, seek and tell of a file.
    with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r:") as opened:
        last_name = ""
        if stream.content is raw:
            budget.check_total(archive.stat().st_size)
        for member in _tar_headers(opened, stream):
            last_name = member.name
            if member.isdir():
                yield member.name, 0, None
            elif member.isreg() and (content := opened.extractfile(member)) is not None:
                yield member.name, member.size, content
            else:
                _refuse(archive, member.name, "is a link or a device")
            opened.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all: 100 MB for COCO's images
        _check_tar_end(archive, stream, opened.offset, last_name, budget)


def _tar_headers(opened: tarfile.TarFile, stream: "_TarStream") -> Iterator[tarfile.TarInfo]:
    while member := opened.next():
        if sum(len(key) + len(value) for key, value in opened.pax_headers.items()) > _MAX_HEADER:
            raise tarfile.ReadError(f"over {_MAX_HEADER:,} bytes of headers for all members")  # tarfile keeps them
        stream.limited = False
        yield member
        stream.start_header()
    stream.limited = False


def _decompressed(raw: IO[bytes]) -> IO[bytes]:
    signature = raw.read(6)
    raw.seek(0)
    for magic, opener in _DECOMPRESSORS.items():
        if signature.startswith(magic):
            return cast("IO[bytes]", opener(raw))
    return raw


@dataclass
class _TarStream:
    """A tar's bytes. While a member's headers are read, many or large reads fail."""

    content: IO[bytes]
    limited: bool = True
    reads: int = 0
    size: int = 0  # bytes of the member's headers

    def start_header(self) -> None:
        self.limited, self.reads, self.size = True, 0, 0

    def read(self, size: int) -> bytes:
        self.reads += 1
        self.size += size
        if self.limited and self.size > _MAX_HEADER:
            raise ValueError(f"a header of {self.size:,} bytes")
        if self.limited and self.reads > _MAX_READS:
            raise ValueError(f"over {_MAX_READS // 2} headers for one member")
        return self.content.read(size)

    def seek(self, position: int) -> int:
        return self.content.seek(position)

    def tell(self) -> int:
        return self.content.tell()


def _check_tar_end(archive: Path, stream: _TarStream, offset: int, last_name: str, budget: SizeBudget) -> None:
    """Reads what follows the last member, to the end, where a compressed stream has its checksum.

    tarfile takes a truncated or damaged header for the end of the archive. At the true end there is a block of zeros,
    and no second archive after it, whose members tarfile would ignore.
    """
    stream.seek(offset)
    rest = stream.read(_CHUNK)
    if rest[:_BLOCK] != bytes(_BLOCK):
        raise PipelineError(f"{archive}: truncated or corrupt after {_printable(last_name)}; fetch it again")
    while rest:
        budget.spend(len(rest), "what follows its end")
        if any(rest[position : position + 5] == b"ustar" for position in range(257, len(rest), _BLOCK)):
            raise PipelineError(
                f"{archive}: another archive follows {_printable(last_name)}; pack them into one archive, or two files"
            )
        rest = stream.read(_CHUNK)


def _safe_path(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))  # programs on Windows separate folders with backslashes
    if path.is_absolute() or ".." in path.parts or "\0" in name or _DRIVE.match(name):
        _refuse(archive, name, "would land outside the folder")
    return path


def _write(archive: Path, name: str, target: Path, content: IO[bytes], size: int, budget: SizeBudget) -> None:
    try:
        file = target.open("xb")
    except FileExistsError:
        _refuse(archive, name, "exists already: twice in the archive, in another archive, or in other capitals")
    remaining = size
    with file, _one_line_errors(archive, name):
        while chunk := content.read(_CHUNK):
            budget.spend(len(chunk), name)
            remaining -= len(chunk)
            file.write(chunk)
    if remaining:
        raise PipelineError(f"{archive}: {_printable(name)}: truncated; fetch it again")


def _refuse(archive: Path, name: str, reason: str) -> NoReturn:
    raise PipelineError(f"{archive}: {_printable(name)}: {reason}; pack the archive again without it")


@contextmanager
def _one_line_errors(archive: Path, member: str | None = None) -> Iterator[None]:
    """Turns the many exceptions of archive readers and of the system into one line that names archive and member."""
    prefix = str(archive) if member is None else f"{archive}: {_printable(member)}"
    try:
        yield
    except _CORRUPT as error:
        cause = _printable(str(error) or type(error).__name__)
        raise PipelineError(f"{prefix}: truncated or corrupt ({cause}); fetch it again") from None
    except NotImplementedError as error:  # such as Deflate64, which Windows uses for large files
        raise PipelineError(
            f"{prefix}: unsupported compression ({error}); unpack it yourself, and use the folder"
        ) from None
    except OSError as error:
        path = f"{_printable(str(error.filename))}: " if error.filename and error.filename != str(archive) else ""
        raise PipelineError(f"{prefix}: not unpacked: {path}{error.strerror or error}") from None


def _printable(name: str) -> str:
    """A name with escape sequences for everything that isn't printable."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
