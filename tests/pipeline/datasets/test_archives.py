"""Unpacking of archives that Python's writers make and the tests then damage."""

import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.archives import SizeBudget, is_archive, unpack
from pipeline.errors import PipelineError
from pipeline.files import atomic_replace

FILES = {"top/a.txt": b"first", "top/deep/b.bin": bytes(range(256)) * 40, "top/empty": b""}


def make_zip(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def make_tar(path: Path, files: dict[str, bytes] = FILES, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_tar_member(path: Path, **fields: object) -> Path:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("odd")
        for name, value in fields.items():
            setattr(member, name, value)
        archive.addfile(member)
    return path


def assert_refused(archive: Path, *expected: str) -> None:
    """Checks that unpacking fails with one line that has the archive and the expected texts, and leaves no files."""
    out = archive.parent / "out"
    with pytest.raises(PipelineError) as caught, atomic_replace(out) as folder:
        unpack(archive, folder)
    line = str(caught.value)
    assert line.startswith(f"{archive}: ")
    assert "\n" not in line
    for text in expected:
        assert text in line
    assert list(archive.parent.iterdir()) == [archive]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "named.wrongly"])
def test_every_file_is_unpacked(tmp_path: Path, name: str) -> None:
    mode = {".tar": "w", ".xz": "w:xz"}.get(Path(name).suffix, "w:gz")
    archive = make_zip(tmp_path / name) if name.endswith(".zip") else make_tar(tmp_path / name, mode=mode)
    assert is_archive(archive)
    unpack(archive, tmp_path / "out")
    unpacked = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert unpacked == FILES


def file_names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def make_raw_zip(path: Path, names: list[bytes], extra: bytes = b"") -> Path:
    """A zip whose members' names are these bytes, without the flag for UTF-8."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo(f"{number}".ljust(len(name), "~"))
            info.extra = extra
            archive.writestr(info, name)
    content = path.read_bytes()
    for number, name in enumerate(names):  # in the member's header and in the directory
        content = content.replace(f"{number}".ljust(len(name), "~").encode(), name)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("café/写真.jpg".encode(), "café/写真.jpg"),  # Info-ZIP and macOS
        ("cafe\N{COMBINING ACUTE ACCENT}.jpg".encode(), "cafe\N{COMBINING ACUTE ACCENT}.jpg"),
        ("café.jpg".encode("cp437"), "café.jpg"),  # as the specification says
        (b"images\\train\\a.jpg", "images/train/a.jpg"),  # made on Windows
    ],
)
def test_names_without_the_flag_for_utf8(tmp_path: Path, raw: bytes, name: str) -> None:
    unpack(make_raw_zip(tmp_path / "a.zip", [raw]), tmp_path / "out")
    assert file_names(tmp_path / "out") == {name}


def test_name_in_the_extra_field_for_unicode(tmp_path: Path) -> None:
    raw, name = "写真.jpg".encode("gbk"), "写真.jpg"
    field = struct.pack("<BI", 1, zlib.crc32(raw)) + name.encode()
    extra = struct.pack("<HH", 9, 1) + b"?" + struct.pack("<HH", 0x7075, len(field)) + field
    unpack(make_raw_zip(tmp_path / "a.zip", [raw], extra), tmp_path / "out")
    assert file_names(tmp_path / "out") == {name}
    unpack(make_raw_zip(tmp_path / "b.zip", ["véritable.jpg".encode("cp437")], extra), tmp_path / "other")
    assert file_names(tmp_path / "other") == {"véritable.jpg"}  # the field is that of another name


def test_folders_of_windows(tmp_path: Path) -> None:
    archive = make_raw_zip(tmp_path / "a.zip", [b"top\\", b"top\\empty\\", b"top\\a.txt", b"top/b.txt"])
    unpack(archive, tmp_path / "out")
    assert file_names(tmp_path / "out") == {"top/a.txt", "top/b.txt"}
    assert (tmp_path / "out/top/empty").is_dir()
    with pytest.raises(PipelineError, match=r"top/a\.txt: exists already"):
        unpack(make_raw_zip(tmp_path / "b.zip", [b"top\\a.txt", b"top/a.txt"]), tmp_path / "twice")


@pytest.mark.parametrize(
    "name",
    ["../evil", "/evil", "top/../../evil", "C:evil", "a\\..\\..\\evil", "\\evil", "\\\\host\\share\\evil", "..\\evil"],
)
def test_members_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "zip").mkdir()
    (tmp_path / "tar").mkdir()
    assert_refused(make_zip(tmp_path / "zip" / "a.zip", {name: b"x"}), "would land outside")
    assert_refused(make_tar(tmp_path / "tar" / "a.tar.gz", {"fine": b"x", name: b"x"}), "would land outside")
    assert not (tmp_path / "evil").exists()
    assert not Path("/evil").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "top/a.txt"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.BLKTYPE},
        {"type": tarfile.FIFOTYPE},
    ],
)
def test_tar_links_and_devices_are_refused(tmp_path: Path, fields: dict[str, object]) -> None:
    assert_refused(make_tar_member(tmp_path / "a.tar", **fields), "odd", "link or a device")


def test_zip_symlinks_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert_refused(tmp_path / "a.zip", "link", "link or a device")


def test_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"secret": b"x" * 50})
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags of both headers
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)
    assert_refused(archive, "secret", "encrypted")


def test_duplicate_members_are_refused(tmp_path: Path) -> None:
    assert_refused(make_tar_with_duplicate(tmp_path / "a.tar"), "top/a.txt", "twice")


def test_several_archives_unpack_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        unpack(make_zip(tmp_path / f"{number}.zip", {f"VOCdevkit/{number}.xml": b"<>"}), out)
    assert sorted(path.name for path in (out / "VOCdevkit").iterdir()) == ["1.xml", "2.xml"]
    with pytest.raises(PipelineError, match=r"2\.zip: VOCdevkit/2\.xml: exists already"):
        unpack(tmp_path / "2.zip", out)
    with pytest.raises(PipelineError, match="the archive is empty"):
        unpack(make_zip(tmp_path / "3.zip", {}), out)


def make_tar_with_duplicate(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("top/a.txt"), io.BytesIO())
    return path


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_truncated_archives_are_refused(tmp_path: Path, kind: str, keep: float) -> None:
    files = {f"{n}.bin": os.urandom(30_000) for n in range(5)}
    archive = tmp_path / f"a.{kind}"
    if kind == "zip":
        make_zip(archive, files)
    else:
        make_tar(archive, files, "w" if kind == "tar" else "w:gz")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content.rstrip(b"\0")) * keep)])
    assert_refused(archive)


def test_tar_truncated_between_members_or_with_a_damaged_header_is_refused(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {"1": b"x" * 512, "2": b"y" * 512}, "w")
    content = bytearray(archive.read_bytes())
    archive.write_bytes(content[:1024])  # the first member and no end-of-archive blocks
    assert_refused(archive, "truncated or corrupt after 1")
    content[1024 + 150] ^= 0xFF  # the checksum of the second header
    archive.write_bytes(content)
    assert_refused(archive, "truncated or corrupt after 1")


def test_zip_with_a_flipped_byte(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"noise": os.urandom(10_000)})
    content = bytearray(archive.read_bytes())
    content[5_000] ^= 0xFF
    archive.write_bytes(content)
    assert_refused(archive, "noise", "truncated or corrupt")


@pytest.mark.parametrize("content", [b"", b"just text", b"PK\x03\x04", b"\x1f\x8b\x08" + bytes(20)])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    assert_refused(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_decompression_bombs_are_refused(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"a.{kind}"
    zeros = {"zeros": bytes(100 << 20)}
    (make_zip if kind == "zip" else make_tar)(archive, zeros)
    assert archive.stat().st_size < 200_000
    assert_refused(archive, "zeros", "bomb")


def test_sparse_tar_bomb_is_refused(tmp_path: Path) -> None:
    """A tar header can declare a sparse file: gigabytes of zeros that take no bytes in the archive."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("holes")
        member.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(member)
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[483:495] = b"%011o\0" % (100 << 30)  # the declared size of the sparse file
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "a.tar").write_bytes(content)
    assert_refused(tmp_path / "a.tar", "holes", "bomb")


def test_zip_with_a_wrong_member_size_is_refused(tmp_path: Path) -> None:
    """Unpacking reads only the 10 bytes that the directory declares, so the checksum does not match."""
    archive = make_zip(tmp_path / "a.zip", {"member": b"x" * 1000})
    content = bytearray(archive.read_bytes())
    offset = content.index(b"PK\x01\x02") + 24  # the size in the central directory
    content[offset : offset + 4] = struct.pack("<I", 10)
    archive.write_bytes(content)
    assert_refused(archive, "member", "truncated or corrupt")


def test_archives_larger_than_the_free_disk_space_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip")
    budget = SizeBudget(archive, free=1000)
    budget.check_total(1000)
    with pytest.raises(PipelineError, match=r"a\.zip: unpacks to 1\.00kB, and 1\.00kB are free on the disk"):
        budget.check_total(1001)
    budget.spend(600, "one")
    with pytest.raises(PipelineError, match=r"a\.zip: two: unpacks to 1\.30kB and more, and 1\.00kB are free"):
        budget.spend(700, "two")


def test_zip_size_is_checked_before_unpacking(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one", b"x")
        archive.getinfo("one").file_size = 2**60  # written to the directory at the end of the archive
    assert_refused(tmp_path / "a.zip", "unpacks to 1.15EB", "are free on the disk")


def test_tar_gz_with_a_flipped_byte(tmp_path: Path) -> None:
    """The checksum of the gzip stream follows the last member, and tarfile does not read that far."""
    archive = make_tar(tmp_path / "a.tar.gz", {"noise": os.urandom(10_000)})
    content = bytearray(archive.read_bytes())
    content[5_000] ^= 0xFF
    archive.write_bytes(content)
    assert_refused(archive, "truncated or corrupt")


def test_tar_gz_truncated_in_its_last_bytes(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-3])
    assert_refused(archive, "truncated or corrupt")


def test_tar_whose_last_member_is_a_zip(tmp_path: Path) -> None:
    """The tar ends like a .zip, but it must not be unpacked as one."""
    inner = make_zip(tmp_path / "inner.zip").read_bytes()
    archive = make_tar(tmp_path / "a.tar", {"first": b"1", "inner.zip": inner}, "w")
    assert zipfile.is_zipfile(archive)
    unpack(archive, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "inner.zip"]


def test_tar_followed_by_another_archive_is_refused(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {"first": b"1"}, "w")
    other = make_tar(tmp_path / "b.tar", {"second": b"2"}, "w")
    archive.write_bytes(archive.read_bytes() + other.read_bytes())
    other.unlink()
    assert_refused(archive, "another archive follows first")


def test_a_file_without_content_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    assert_refused(tmp_path / "a.zip", "the file is empty; fetch it again")


@pytest.mark.parametrize("kind", ["zip", "tar", "zeros"])
def test_empty_archives_are_refused(tmp_path: Path, kind: str) -> None:
    """A file of zeros, which some download programs preallocate, reads as an empty tar."""
    archive = tmp_path / f"a.{kind}"
    if kind == "zeros":
        archive.write_bytes(bytes(20_000))
    else:
        make_zip(archive, {}) if kind == "zip" else make_tar(archive, {}, "w")
    assert_refused(archive, "the archive is empty")


def test_zip_whose_directory_hides_a_member_is_refused(tmp_path: Path) -> None:
    """The declared comment length of the first entry covers the second entry."""
    archive = make_zip(tmp_path / "a.zip", {"1": b"one", "2": b"two"})
    content = bytearray(archive.read_bytes())
    first, second = content.index(b"PK\x01\x02"), content.rindex(b"PK\x01\x02")
    content[first + 32 : first + 34] = struct.pack("<H", content.index(b"PK\x05\x06") - second)
    archive.write_bytes(content)
    assert_refused(archive, "1 of 2 members")


@pytest.mark.parametrize("quoted", [True, False])
def test_zip_with_overlapping_members_is_refused(tmp_path: Path, quoted: bool) -> None:
    """As in Fifield's zip bomb: a shared member adds its size but no bytes, so its compression ratio looks harmless."""
    archive = make_zip(tmp_path / "a.zip", {"1": os.urandom(5000), "2": os.urandom(5000)})
    content = archive.read_bytes()
    second = content.rindex(b"PK\x01\x02")
    # The second member starts inside the first member or at the same offset.
    offset = struct.pack("<I", 40 if quoted else 0)
    archive.write_bytes(content[: second + 42] + offset + content[second + 46 :])
    assert_refused(archive, "shares its bytes")


def long_name(content: bytes = b"name\0", kind: bytes = tarfile.GNUTYPE_LONGNAME) -> bytes:
    """A header that belongs to the next one: GNU's for a long name, or one of the pax format."""
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = kind, len(content)
    return member.tobuf(tarfile.GNU_FORMAT) + content.ljust(-(-len(content) // 512) * 512, b"\0")


def last_member() -> bytes:
    return tarfile.TarInfo("a").tobuf() + bytes(1024)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("header", "number", "problem"),
    [
        (long_name(), 3000, "over 100 headers for one member"),
        (long_name(b"11 path=ab\n", tarfile.XHDTYPE), 3000, "over 100 headers for one member"),
        (long_name(b"9 a=bcde\n", tarfile.XGLTYPE), 3000, "over 100 headers for one member"),
        (long_name(bytes(100_000)), 50, "a header of 1,"),  # megabytes at once, though none is large
        (long_name(b"11 path=ab\n" * 50_000, tarfile.XHDTYPE), 3, "a header of 1,"),
    ],
)
def test_tar_with_chained_headers_is_refused(
    tmp_path: Path, header: bytes, number: int, problem: str, compress: Callable[[bytes], bytes]
) -> None:
    archive = tmp_path / "a.tar"
    archive.write_bytes(compress(header * number + last_member()))
    assert is_archive(archive)
    assert_refused(archive, "truncated or corrupt", problem)


def test_tar_whose_headers_for_all_members_grow_is_refused(tmp_path: Path) -> None:
    """tarfile keeps what they say until the end."""
    archive = tmp_path / "a.tar"
    members = [
        long_name(f"{100_012} {number:06}={'x' * 99_997}\n".encode(), tarfile.XGLTYPE)
        + tarfile.TarInfo(str(number)).tobuf()
        for number in range(20)
    ]
    archive.write_bytes(b"".join(members) + bytes(1024))
    assert_refused(archive, "truncated or corrupt (over 1,048,576 bytes of headers for all members)")


def test_tar_with_usual_headers_of_its_own_is_unpacked(tmp_path: Path) -> None:
    """A long name for each member, and a pax header for all."""
    long = "folder/" + "n" * 200
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "a"}) as archive:
        for index in range(300):
            archive.addfile(tarfile.TarInfo(f"{long}{index}"))
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert len(list((tmp_path / "out/folder").iterdir())) == 300


def test_tar_with_a_huge_header_is_refused(tmp_path: Path) -> None:
    """A long-name header of 64 MB, which tarfile would read into memory."""
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.GNU_FORMAT) as opened:
        member = tarfile.TarInfo("././@LongLink")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
        opened.addfile(member, io.BytesIO(bytes(64 << 20)))
        opened.addfile(tarfile.TarInfo("a"))
    assert_refused(archive, "a header of")


def test_zip_with_an_unsupported_compression_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", {"one": b"x" * 50})
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + offset] = 9  # Deflate64
    archive.write_bytes(content)
    assert_refused(archive, "one", "unsupported compression", "unpack it yourself")


def test_names_too_long_or_not_printable_give_one_line(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    assert_refused(make_tar(tmp_path / "1" / "a.tar", {"x" * 300: b"1"}, "w"), "xxx: File name too long")
    (tmp_path / "2").mkdir()
    assert_refused(
        make_tar(tmp_path / "2" / "a.tar", {"../\x1b[31m\n": b"1"}, "w"), r"../\x1b[31m\n: would land outside"
    )


KINDS = {"zip": make_zip, "tar": lambda path: make_tar(path, mode="w"), "tar.gz": make_tar}
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


@settings(deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), changes=CHANGES, keep=st.floats(0.2, 1))
def test_damaged_archives_give_one_line_or_the_right_files(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[float, int]], keep: float
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    archive = KINDS[kind](folder / f"a.{kind}")
    content = bytearray(archive.read_bytes())
    for position, byte in changes:
        content[int(position * len(content))] = byte
    archive.write_bytes(content[: int(keep * len(content))] if keep < 0.9 else content)
    try:
        unpack(archive, folder / "out")
    except PipelineError as error:
        line = str(error)
    else:
        unpacked = {path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
        assert kind == "tar" or unpacked == set(FILES.values())  # a plain tar has no checksum of its content
        return
    assert line.isprintable()
