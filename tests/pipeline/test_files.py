import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.files import (
    atomic_replace,
    digest,
    move_files,
    read_json,
    remove,
    to_utf8,
    unique_jpg_names,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_half(path: Path, failure: BaseException) -> None:
    with atomic_replace(path) as temporary:
        temporary.write_text("half")
        raise failure


def make_half(folder: Path, failure: BaseException) -> None:
    with atomic_replace(folder) as temporary:
        temporary.mkdir()
        raise failure


def test_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"ß": [1, 2.5]}, indent=None)
    assert path.read_bytes() == '{"ß": [1, 2.5]}\n'.encode()
    assert read_json(path) == {"ß": [1, 2.5]}
    assert names(path.parent) == ["a.json"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_the_old_file(tmp_path: Path, failure: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(failure):
        write_half(path, failure())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_files_are_moved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full in the middle of the second file, which is copied, since it goes to another file system."""
    staging, out = tmp_path / "staging", tmp_path / "deep/out"
    for folder, content in ((staging, "new"), (out, "old")):
        folder.mkdir(parents=True)
        for name in "abc":
            (folder / name).write_text(content)

    def copy_half(source: Path, target: Path) -> None:
        if source.name == "b":
            target.write_text("n")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        source.rename(target)

    monkeypatch.setattr(shutil, "move", copy_half)
    with pytest.raises(PipelineError, match=r"out: can't be written: no space left on device; free some space$"):
        move_files(staging, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "new", "b": "old", "c": "old"}
    monkeypatch.undo()
    move_files(staging, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "new", "b": "new", "c": "new"}
    assert names(staging) == []


def test_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "old").touch()
    with atomic_replace(folder) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        assert (folder / "sub" / "old").exists()
    assert names(folder) == ["new"]
    with pytest.raises(KeyboardInterrupt):
        make_half(folder, KeyboardInterrupt())
    assert names(tmp_path) == ["out"]
    assert names(folder) == ["new"]


def test_remove_spares_what_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    remove(tmp_path / "never there")
    assert names(tmp_path) == ["kept"]


@pytest.mark.parametrize("name", ["a[1].jpg", "a*b?.jpg", "a.b"])
def test_what_a_killed_process_left_is_removed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    for left in (path, tmp_path / f"other-{name}"):
        left.with_name(f".{left.stem}.{killed.pid}.partial{left.suffix}").touch()
    running = path.with_name(f".{path.stem}.{os.getppid()}.partial{path.suffix}")
    unrelated = path.with_name(f".{path.stem}.notes.partial{path.suffix}")
    running.touch()
    unrelated.touch()
    write_text(path, "new")
    other = f".{Path(f'other-{name}').stem}.{killed.pid}.partial{path.suffix}"
    assert names(tmp_path) == sorted([name, other, running.name, unrelated.name])


@pytest.mark.parametrize(
    ("content", "said"),
    [(b'{"a": 1,\n "b" 2}', "line 2 column 6"), (b"\xff\xfe", "UTF-8"), (b" ", "the file is empty")],
)
def test_broken_json_says_where(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(PipelineError, match=said):
        read_json(tmp_path / "a.json")


def test_missing_json_and_nan(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "a.json", float("nan"))
    assert names(tmp_path) == []


def test_digest_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-2
    assert digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "a.json: not read: its lists are nested too deeply"),
        ("1" * 5000, "a.json: not read: Exceeds the limit"),
        ("[1,\n2,,]", "a.json: not JSON: Expecting value at line 2 column 3"),
    ],
)
def test_json_that_cannot_be_held_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(PipelineError) as caught:
        read_json(tmp_path / "a.json")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_are_never_given_twice() -> None:
    paths = [Path("x/a.jpg"), Path("y/a.png"), Path("z/a-2.jpg"), Path("b.tif")]
    assert unique_jpg_names(paths) == ["a.jpg", "a-2.jpg", "a-2-2.jpg", "b.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_content(tmp_path: Path, encoding: str) -> None:
    text = '{"name": "Äpfel 日本"}'
    assert to_utf8(text.encode(encoding)) == text.encode()
    (tmp_path / "a.json").write_text(text, encoding=encoding)
    assert read_json(tmp_path / "a.json") == {"name": "Äpfel 日本"}


def test_bytes_that_are_no_text_stay_as_they_are() -> None:
    for content in (b"", b"\xff", b"\xff\xfe", b"\xff\xfe\xff", b"\xff\xfe\x00\xd8", b"\x89PNG"):
        assert to_utf8(content) == content


@pytest.mark.parametrize("pid", ["0", "9" * 20, "9" * 200])
def test_stray_partial_files_of_any_number_are_removed(tmp_path: Path, pid: str) -> None:
    stray = tmp_path / f".a.{pid}.partial.txt"
    stray.mkdir()
    (stray / "inside").touch()
    write_text(tmp_path / "a.txt", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_other_names_are_kept(tmp_path: Path) -> None:
    names = [
        ".a.partial.txt",
        ".a.-1.partial.txt",
        ".a.1x.partial.txt",
        ".a.٣.partial.txt",
        ".b.0.partial.txt",
        "a.0.partial.txt",
    ]
    for name in names:
        (tmp_path / name).touch()
    write_text(tmp_path / "a.txt", "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "a.txt"])
