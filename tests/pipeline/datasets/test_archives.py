"""Real archives, made with Python's own writers and then damaged."""

import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.datasets.archives import SizeBudget, is_archive, unpack
from pipeline.errors import PipelineError
from pipeline.files import atomic_replace

FILES = {"top/a.txt": b"first", "top/deep/b.bin": bytes(range(256)) * 40, "top/empty": b""}


def zipped(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, files: dict[str, bytes] = FILES, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def special(path: Path, **fields: object) -> Path:
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo("odd")
        for name, value in fields.items():
            setattr(member, name, value)
        archive.addfile(member)
    return path


def refused(archive: Path, *said: str) -> None:
    """Unpacking fails in one line that names the archive and says so, and leaves nothing."""
    out = archive.parent / "out"
    with pytest.raises(PipelineError) as caught, atomic_replace(out) as folder:
        unpack(archive, folder)
    line = str(caught.value)
    assert line.startswith(f"{archive}: ")
    assert "\n" not in line
    for text in said:
        assert text in line
    assert list(archive.parent.iterdir()) == [archive]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "named.wrongly"])
def test_everything_comes_out(tmp_path: Path, name: str) -> None:
    mode = {".tar": "w", ".xz": "w:xz"}.get(Path(name).suffix, "w:gz")
    archive = zipped(tmp_path / name) if name.endswith(".zip") else tarred(tmp_path / name, mode=mode)
    assert is_archive(archive)
    unpack(archive, tmp_path / "out")
    found = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert found == FILES


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def zipped_raw(path: Path, names: list[bytes], extra: bytes = b"") -> Path:
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
    unpack(zipped_raw(tmp_path / "a.zip", [raw]), tmp_path / "out")
    assert names_in(tmp_path / "out") == {name}


def test_name_in_the_extra_field_for_unicode(tmp_path: Path) -> None:
    raw, name = "写真.jpg".encode("gbk"), "写真.jpg"
    field = struct.pack("<BI", 1, zlib.crc32(raw)) + name.encode()
    extra = struct.pack("<HH", 9, 1) + b"?" + struct.pack("<HH", 0x7075, len(field)) + field
    unpack(zipped_raw(tmp_path / "a.zip", [raw], extra), tmp_path / "out")
    assert names_in(tmp_path / "out") == {name}
    unpack(zipped_raw(tmp_path / "b.zip", ["véritable.jpg".encode("cp437")], extra), tmp_path / "other")
    assert names_in(tmp_path / "other") == {"véritable.jpg"}  # the field is that of another name


def test_folders_of_windows(tmp_path: Path) -> None:
    archive = zipped_raw(tmp_path / "a.zip", [b"top\\", b"top\\empty\\", b"top\\a.txt", b"top/b.txt"])
    unpack(archive, tmp_path / "out")
    assert names_in(tmp_path / "out") == {"top/a.txt", "top/b.txt"}
    assert (tmp_path / "out/top/empty").is_dir()
    with pytest.raises(PipelineError, match=r"top/a\.txt: exists already"):
        unpack(zipped_raw(tmp_path / "b.zip", [b"top\\a.txt", b"top/a.txt"]), tmp_path / "twice")


@pytest.mark.parametrize(
    "name",
    ["../evil", "/evil", "top/../../evil", "C:evil", "a\\..\\..\\evil", "\\evil", "\\\\host\\share\\evil", "..\\evil"],
)
def test_members_that_leave_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "zip").mkdir()
    (tmp_path / "tar").mkdir()
    refused(zipped(tmp_path / "zip" / "a.zip", {name: b"x"}), "would land outside")
    refused(tarred(tmp_path / "tar" / "a.tar.gz", {"fine": b"x", name: b"x"}), "would land outside")
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
def test_tar_links_and_devices(tmp_path: Path, fields: dict[str, object]) -> None:
    refused(special(tmp_path / "a.tar", **fields), "odd", "link or a device")


def test_zip_symlink(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "a.zip", "link", "link or a device")


def test_zip_encrypted(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"secret": b"x" * 50})
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # both headers' flags
        content[content.index(signature) + offset] |= 1
    archive.write_bytes(content)
    refused(archive, "secret", "encrypted")


def test_member_twice(tmp_path: Path) -> None:
    refused(tarred_twice(tmp_path / "a.tar"), "top/a.txt", "twice")


def test_several_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in (1, 2):
        unpack(zipped(tmp_path / f"{number}.zip", {f"VOCdevkit/{number}.xml": b"<>"}), out)
    assert sorted(path.name for path in (out / "VOCdevkit").iterdir()) == ["1.xml", "2.xml"]
    with pytest.raises(PipelineError, match=r"2\.zip: VOCdevkit/2\.xml: exists already"):
        unpack(tmp_path / "2.zip", out)
    with pytest.raises(PipelineError, match="the archive is empty"):
        unpack(zipped(tmp_path / "3.zip", {}), out)


def tarred_twice(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("top/a.txt"), io.BytesIO())
    return path


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_truncated(tmp_path: Path, kind: str, keep: float) -> None:
    files = {f"{n}.bin": os.urandom(30_000) for n in range(5)}
    archive = tmp_path / f"a.{kind}"
    if kind == "zip":
        zipped(archive, files)
    else:
        tarred(archive, files, "w" if kind == "tar" else "w:gz")
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content.rstrip(b"\0")) * keep)])
    refused(archive)


def test_tar_cut_between_two_members_and_at_a_damaged_header(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tar", {"1": b"x" * 512, "2": b"y" * 512}, "w")
    content = bytearray(archive.read_bytes())
    archive.write_bytes(content[:1024])  # header and content of the first, and no end
    refused(archive, "truncated or corrupt after 1")
    content[1024 + 150] ^= 0xFF  # in the second header's checksum
    archive.write_bytes(content)
    refused(archive, "truncated or corrupt after 1")


def test_zip_with_a_flipped_byte(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"noise": os.urandom(10_000)})
    content = bytearray(archive.read_bytes())
    content[5_000] ^= 0xFF
    archive.write_bytes(content)
    refused(archive, "noise", "truncated or corrupt")


@pytest.mark.parametrize("content", [b"", b"just text", b"PK\x03\x04", b"\x1f\x8b\x08" + bytes(20)])
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_bomb(tmp_path: Path, kind: str) -> None:
    archive = tmp_path / f"a.{kind}"
    zeros = {"zeros": bytes(100 << 20)}
    (zipped if kind == "zip" else tarred)(archive, zeros)
    assert archive.stat().st_size < 200_000
    refused(archive, "zeros", "bomb")


def test_sparse_bomb(tmp_path: Path) -> None:
    """A tar header may claim a file of holes: gigabytes of zeros out of nothing."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo("holes")
        member.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(member)
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[483:495] = b"%011o\0" % (100 << 30)  # its real size
    content[148:156] = b" " * 8
    content[148:156] = b"%06o\0 " % sum(content[:512])
    (tmp_path / "a.tar").write_bytes(content)
    refused(tmp_path / "a.tar", "holes", "bomb")


def test_zip_whose_header_lies(tmp_path: Path) -> None:
    """Of a member said to have 10 bytes no more than 10 come out, and then the checksum is wrong."""
    archive = zipped(tmp_path / "a.zip", {"liar": b"x" * 1000})
    content = bytearray(archive.read_bytes())
    place = content.index(b"PK\x01\x02") + 24  # the size in the central directory
    content[place : place + 4] = struct.pack("<I", 10)
    archive.write_bytes(content)
    refused(archive, "liar", "truncated or corrupt")


def test_more_than_the_disk_has(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip")
    budget = SizeBudget(archive, free=1000)
    budget.check_total(1000)
    with pytest.raises(PipelineError, match=r"a\.zip: unpacks to 1\.00kB, and 1\.00kB are free on the disk"):
        budget.check_total(1001)
    budget.spend(600, "one")
    with pytest.raises(PipelineError, match=r"a\.zip: two: unpacks to 1\.30kB and more, and 1\.00kB are free"):
        budget.spend(700, "two")


def test_a_zip_says_beforehand_what_it_takes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one", b"x")
        archive.getinfo("one").file_size = 2**60  # in the directory at its end
    refused(tmp_path / "a.zip", "unpacks to 1.15EB", "are free on the disk")


def test_tar_gz_with_a_flipped_byte(tmp_path: Path) -> None:
    """The stream's checksum comes after the last member, where tarfile alone never looks."""
    archive = tarred(tmp_path / "a.tar.gz", {"noise": os.urandom(10_000)})
    content = bytearray(archive.read_bytes())
    content[5_000] ^= 0xFF
    archive.write_bytes(content)
    refused(archive, "truncated or corrupt")


def test_tar_gz_cut_in_its_last_bytes(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-3])
    refused(archive, "truncated or corrupt")


def test_tar_whose_last_member_is_a_zip(tmp_path: Path) -> None:
    """It ends as a .zip does, and was once unpacked as this one alone."""
    inner = zipped(tmp_path / "inner.zip").read_bytes()
    archive = tarred(tmp_path / "a.tar", {"first": b"1", "inner.zip": inner}, "w")
    assert zipfile.is_zipfile(archive)
    unpack(archive, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["first", "inner.zip"]


def test_tar_with_another_behind_it(tmp_path: Path) -> None:
    archive = tarred(tmp_path / "a.tar", {"first": b"1"}, "w")
    other = tarred(tmp_path / "b.tar", {"second": b"2"}, "w")
    archive.write_bytes(archive.read_bytes() + other.read_bytes())
    other.unlink()
    refused(archive, "another archive follows first")


@pytest.mark.parametrize("kind", ["zip", "tar", "zeros"])
def test_nothing_in_it(tmp_path: Path, kind: str) -> None:
    """A file of zeros, as some programs lay out before they download, is an empty tar."""
    archive = tmp_path / f"a.{kind}"
    if kind == "zeros":
        archive.write_bytes(bytes(20_000))
    else:
        zipped(archive, {}) if kind == "zip" else tarred(archive, {}, "w")
    refused(archive, "the archive is empty")


def test_zip_whose_directory_swallows_a_member(tmp_path: Path) -> None:
    """The first entry's comment is said to be as long as the second entry."""
    archive = zipped(tmp_path / "a.zip", {"1": b"one", "2": b"two"})
    content = bytearray(archive.read_bytes())
    first, second = content.index(b"PK\x01\x02"), content.rindex(b"PK\x01\x02")
    content[first + 32 : first + 34] = struct.pack("<H", content.index(b"PK\x05\x06") - second)
    archive.write_bytes(content)
    refused(archive, "1 of 2 members")


@pytest.mark.parametrize("quoted", [True, False])
def test_zip_whose_members_share_their_bytes(tmp_path: Path, quoted: bool) -> None:
    """As in Fifield's bomb: each adds its size and no bytes, so the ratio of each stays small."""
    archive = zipped(tmp_path / "a.zip", {"1": os.urandom(5000), "2": os.urandom(5000)})
    content = archive.read_bytes()
    second = content.rindex(b"PK\x01\x02")
    # The second member begins where the first does, or within it.
    place = struct.pack("<I", 40 if quoted else 0)
    archive.write_bytes(content[: second + 42] + place + content[second + 46 :])
    refused(archive, "shares its bytes")


def test_tar_whose_header_would_fill_the_memory(tmp_path: Path) -> None:
    """A long name of 64 MB: tarfile reads a name whole."""
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz", format=tarfile.GNU_FORMAT) as opened:
        member = tarfile.TarInfo("././@LongLink")
        member.type, member.size = tarfile.GNUTYPE_LONGNAME, 64 << 20
        opened.addfile(member, io.BytesIO(bytes(64 << 20)))
        opened.addfile(tarfile.TarInfo("a"))
    refused(archive, "a header of")


def test_zip_packed_in_an_unknown_way(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"one": b"x" * 50})
    content = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.index(signature) + offset] = 9  # Deflate64
    archive.write_bytes(content)
    refused(archive, "one", "unsupported compression", "unpack it yourself")


def test_names_that_are_too_long_or_not_printable(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    refused(tarred(tmp_path / "1" / "a.tar", {"x" * 300: b"1"}, "w"), "xxx: File name too long")
    (tmp_path / "2").mkdir()
    refused(tarred(tmp_path / "2" / "a.tar", {"../\x1b[31m\n": b"1"}, "w"), r"../\x1b[31m\n: would land outside")


KINDS = {"zip": zipped, "tar": lambda path: tarred(path, mode="w"), "tar.gz": tarred}
CHANGES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


@settings(deadline=None)
@given(kind=st.sampled_from(sorted(KINDS)), changes=CHANGES, keep=st.floats(0.2, 1))
def test_a_damaged_archive_is_told_in_one_line_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, kind: str, changes: list[tuple[float, int]], keep: float
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    archive = KINDS[kind](folder / f"a.{kind}")
    content = bytearray(archive.read_bytes())
    for place, byte in changes:
        content[int(place * len(content))] = byte
    archive.write_bytes(content[: int(keep * len(content))] if keep < 0.9 else content)
    try:
        unpack(archive, folder / "out")
    except PipelineError as error:
        line = str(error)
    else:
        found = {path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}
        assert kind == "tar" or found == set(FILES.values())  # a plain tar has no checksum of its content
        return
    assert line.isprintable()
