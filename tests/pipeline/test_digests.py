"""Digests of many files: computed from the content, stored while a file stays the same, and safe against damage."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from pipeline import digests
from pipeline.digests import file_digests
from pipeline.errors import PipelineError


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def files(home: Path) -> list[Path]:
    """Three files in the workspace, two of them equal."""
    paths = [home / "a.jpg", home / "b.jpg", home / "a copy.jpg"]
    for path, content in zip(paths, (b"one", b"two", b"one"), strict=True):
        path.write_bytes(content)
    return paths


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read. Files count as settled at once."""
    read: list[Path] = []

    def record(path: Path) -> str:
        read.append(path)
        return sha256(path.read_bytes())

    monkeypatch.setattr(digests, "digest", record)
    monkeypatch.setattr(digests, "_RACY_NS", -(10**9))
    return read


def replace(path: Path, content: bytes) -> None:
    """Replaces the content without a trace in the size and the modification time."""
    before = path.stat()
    time.sleep(0.02)  # longer than a tick of the clock of file systems
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_digests_are_those_of_the_contents(files: list[Path]) -> None:
    assert file_digests(files) == [sha256(b"one"), sha256(b"two"), sha256(b"one")]
    assert file_digests([]) == []


def test_only_changed_files_are_read_again(files: list[Path], hashed: list[Path]) -> None:
    file_digests(files)
    hashed.clear()
    assert file_digests(files) == [sha256(b"one"), sha256(b"two"), sha256(b"one")]
    assert file_digests(files[1:2]) == [sha256(b"two")]
    assert hashed == []
    replace(files[1], b"new")
    assert file_digests(files) == [sha256(b"one"), sha256(b"new"), sha256(b"one")]
    assert hashed == [files[1]]


def test_digests_of_files_that_changed_just_now_are_not_stored(files: list[Path]) -> None:
    file_digests(files)
    files[0].write_bytes(b"six")  # perhaps within the same tick
    assert file_digests(files)[0] == sha256(b"six")
    assert (files[0].parent / ".fcos/digests.json").read_text() == "{}\n"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"a": 1}', b"[" * 100_000])
def test_a_damaged_store_is_written_anew(files: list[Path], hashed: list[Path], content: bytes) -> None:
    file_digests(files)
    store = files[0].parent / ".fcos/digests.json"
    intact = store.read_bytes()
    store.write_bytes(content)
    assert file_digests(files) == [sha256(b"one"), sha256(b"two"), sha256(b"one")]
    assert store.read_bytes() == intact
    assert len(hashed) == 2 * len(files)


def test_a_missing_file_is_one_line(files: list[Path]) -> None:
    files[1].unlink()
    with pytest.raises(PipelineError, match=r"b\.jpg: no such file$"):
        file_digests(files)
