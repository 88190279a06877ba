"""Which files `fcos predict` reads."""

import errno
import os
from pathlib import Path, PurePosixPath

import pytest

from pipeline.data.image_suffixes import IMAGE_SUFFIXES, find_files
from pipeline.formats.image_index import ImageIndex
from pipeline.prediction.inputs import VIDEO_SUFFIXES, find_inputs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with images, a video, notes, and pictures of an earlier run."""
    for name in ("b.png", "a.JPG", "clip.mp4", "notes.txt", "sub/c.webp", "sub/deep/a[1].tif", "predicted/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    return [path.as_posix() for path in paths]


def test_a_folder_is_searched_without_the_pictures_of_an_earlier_run(folder: Path) -> None:
    inputs = find_inputs(["."], Path("predicted"))
    assert names(inputs.images) == ["a.JPG", "b.png", "sub/c.webp", "sub/deep/a[1].tif"]
    assert (names(inputs.videos), inputs.problems) == (["clip.mp4"], [])
    assert names(find_inputs([str(folder)], Path("predicted")).images)[0] == f"{folder}/a.JPG"


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("a.jpg", "b/c.png", ".venv/icon.png", "b/._c.png", "b/.thumbnails/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_files(tmp_path) == [tmp_path / "a.jpg", tmp_path / "b/c.png"]
    hidden = tmp_path / ".venv"
    assert find_files(hidden) == [hidden / "icon.png"]  # itself given


def test_files_and_patterns_and_each_file_once(folder: Path) -> None:
    inputs = find_inputs(["sub/deep/a[1].tif", "b.png", "*.png", "**/*.web?", f"{folder}/*.JPG", "clip.mp4"])
    assert names(inputs.images) == ["sub/deep/a[1].tif", "b.png", "sub/c.webp", f"{folder}/a.JPG"]
    assert (names(inputs.videos), inputs.problems) == (["clip.mp4"], [])
    assert names(find_inputs(["su*"]).images) == ["sub/c.webp", "sub/deep/a[1].tif"]


@pytest.mark.usefixtures("folder")
def test_a_list_has_a_path_on_each_line() -> None:
    inputs = find_inputs(["b.png", "-"], None, ["a.JPG\n", "\n", "sub/c.webp\r\n", "gone.png"])
    assert names(inputs.images) == ["b.png", "a.JPG", "sub/c.webp"]
    assert inputs.problems == ["gone.png: no such file or folder"]
    assert find_inputs(["b.png"], None, ["a.JPG"]).images == [Path("b.png")]


def test_what_names_no_file_is_a_line_each(folder: Path) -> None:
    (folder / "empty").mkdir()
    url = "https://example.org/a b.jpg?x=1&y=2"
    inputs = find_inputs([url, "rtsp://camera/1", "*.gif", "gone.jpg", "empty", "notes.txt"])
    assert names(inputs.images) == ["notes.txt"]  # its reader says that it is no image
    assert inputs.problems == [
        f"{url}: is a URL; download it first: curl -O '{url}'",
        "rtsp://camera/1: is a URL; give a file",
        "*.gif: no file matches",
        "gone.jpg: no such file or folder",
        f"empty: no image or video in this folder (recognized: {', '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))})",
    ]


def test_an_empty_list_and_a_folder_that_is_left_out_are_named(folder: Path) -> None:
    assert find_inputs(["-"], None, ["\n"]).problems == ["-: the list is empty"]
    assert find_inputs(["predicted"], folder / "predicted").problems == [
        f"predicted: every image or video is in the output folder {folder}/predicted, which is left out: "
        "choose another --out"
    ]


def test_names_that_are_not_utf8_are_named(folder: Path) -> None:
    for name in (b"sub/caf\xe9.jpg", "sub/café.jpg".encode()):
        Path(os.fsdecode(name)).touch()
    inputs = find_inputs(["sub", os.fsdecode(b"caf\xe9.gif")])
    assert names(inputs.images) == ["sub/c.webp", "sub/café.jpg", "sub/deep/a[1].tif"]
    assert inputs.problems == [
        "sub/caf\\xe9.jpg: the name is not UTF-8; rename it",
        "caf\\xe9.gif: no such file or folder",
    ]
    assert folder.is_dir()


def test_what_cant_be_looked_up_is_named_and_the_others_are_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "locked").mkdir()
    (folder / "locked/x.jpg").touch()
    stat = Path.stat

    def locked_stat(path: Path, **options: bool) -> os.stat_result:
        if path.parent.name == "locked":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", locked_stat)
    long = f"{'a' * 300}.jpg"
    inputs = find_inputs(["b.png", "locked/x.jpg", long, "sub"])
    assert names(inputs.images) == ["b.png", "sub/c.webp", "sub/deep/a[1].tif"]
    assert inputs.problems == [
        "locked/x.jpg: can't be read: permission denied",
        f"{long}: can't be read: file name too long",
    ]
    assert names(find_inputs(["locked"]).images) == ["locked/x.jpg"]  # its reader says why it can't be read


def test_images_have_the_same_endings_as_in_data_sets(tmp_path: Path) -> None:
    names = [f"picture{suffix}" for suffix in IMAGE_SUFFIXES] + ["scan.JFIF", "photo.Jpe"]
    for name in (*names, "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in find_inputs([str(tmp_path)]).images] == sorted(names)
    assert ImageIndex([PurePosixPath(name) for name in names]).count == len(names)
