import os
import time
from pathlib import Path, PurePosixPath

import pytest

from pipeline.errors import PipelineError
from pipeline.formats.dataset_files import list_files
from pipeline.formats.image_index import ImageIndex, read_image_size
from pipeline.formats.records import Issue


def paths(*names: str) -> list[PurePosixPath]:
    return [PurePosixPath(name) for name in names]


def named(files: list[PurePosixPath], name: str, near: str = ".", split: str = "") -> str:
    result = ImageIndex(files).find(name, PurePosixPath(near), split)
    return result.code if isinstance(result, Issue) else result


def test_files_in_the_order_of_their_paths_without_hidden_ones(tmp_path: Path) -> None:
    for name in ("a/b.txt", "a.txt", "a/B/c.txt", ".git/x", "a/.x", "__MACOSX/y", "z/deep/er/f"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    files = list_files(tmp_path)
    assert files == paths("a/B/c.txt", "a/b.txt", "a.txt", "z/deep/er/f")
    assert files == sorted(files)


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "images" / "a.png").touch()
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "pictures").symlink_to(tmp_path / "data" / "images")
    (tmp_path / "set" / "self").symlink_to(tmp_path / "set")
    assert list_files(tmp_path / "set") == paths("pictures/a.png")


def test_file_names_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    with pytest.raises(PipelineError, match="is not UTF-8; rename the file"):
        list_files(tmp_path)
    with pytest.raises(PipelineError, match="nowhere: can't be read"):
        list_files(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "near", "split", "expected"),
    [
        ("/home/me/val/a.png", ".", "", "val/a.png"),  # as many parts as can be
        ("C:\\x\\train\\a.png", ".", "", "train/a.png"),
        ("a.png", "notes", "val", "val/a.png"),  # the split's folder
        ("a.png", "train", "", "train/a.png"),  # in the folder of the annotation
        ("a.png", ".", "", "ambiguous_image"),
        ("b.png", "seq/notes", "", "seq/images/b.png"),  # nearest, and no mask
        ("b.png", ".", "", "images/b.png"),
        ("b.png", "masks", "", "masks/b.png"),
        ("../../a", ".", "", "missing_image"),
        ("..", ".", "", "missing_image"),
        ("/", ".", "", "missing_image"),
        ("\0", ".", "", "missing_image"),
    ],
)
def test_which_file(name: str, near: str, split: str, expected: str) -> None:
    files = paths("train/a.png", "val/a.png", "images/b.png", "masks/b.png", "seq/images/b.png", "seq/masks/b.png")
    assert named(files, name, near, split) == expected


NFD = "cafe\N{COMBINING ACUTE ACCENT}"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("café/a.jpg", f"{NFD}/a.jpg"),  # macOS writes two characters where the annotation has one
        (f"{NFD}/a.jpg", f"{NFD}/a.jpg"),
        ("x/B.JPG", "b/B.jpg"),
        ("c.jpg", "c.jpg"),  # the very name comes first
        ("C.jpg", "C.jpg"),
        ("C.JPG", "ambiguous_image"),
        ("d/E.jpg", "d\\e.jpg"),  # a file's name, since its archive was made on Windows
        ("photo.jfif", "photo.jfif"),
        ("scan.JPE", "scan.jpe"),
        ("frames/0001", "frames/0001"),  # named by its record, so it is an image
        ("frames/0002.dat", "frames/0002.dat"),
        ("a%20space.jpg", "a space.jpg"),
        ("50%25.jpg", "50%25.jpg"),
        ("0001.jpg", "missing_image"),
    ],
)
def test_other_spellings_of_a_name(name: str, expected: str) -> None:
    files = paths(
        *(f"{NFD}/a.jpg", "b/B.jpg", "c.jpg", "C.jpg", "d\\e.jpg", "photo.jfif", "scan.jpe", "frames/0001"),
        *("frames/0002.dat", "a space.jpg", "50%25.jpg"),
    )
    assert named(files, name) == expected


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("写真/猫.jpg", "cp936"),
        ("ねこ.jpg", "cp932"),
        ("고양이.jpg", "cp949"),
        ("кот.jpg", "cp866"),
        ("žába.jpg", "cp852"),
    ],
)
def test_names_whose_archive_did_not_state_the_encoding(name: str, encoding: str) -> None:
    unpacked = name.encode(encoding).decode("cp437")
    assert named(paths(unpacked, "other.jpg"), name) == unpacked
    assert named(paths(unpacked, name), name) == name


def test_stems_in_other_spellings() -> None:
    files = paths(f"{NFD}.jfif", "b.JPG", "b.txt", "c.tiff", "C.tiff")
    stems = {stem: ImageIndex(files).find_stem(stem, PurePosixPath()) for stem in ("café", "B", "c", "C", "d")}
    assert {stem: result for stem, result in stems.items() if isinstance(result, str)} == {
        "café": f"{NFD}.jfif", "B": "b.JPG", "c": "c.tiff", "C": "C.tiff",
    }  # fmt: skip


def test_spelling_and_split_together() -> None:
    files = paths(f"train/{NFD}.jpg", f"val/{NFD}.jpg", f"val/{NFD.upper()}.jpg", f"Train/{NFD}.png")
    assert named(files, "café.jpg", split="val") == f"val/{NFD}.jpg"
    assert named(files, "café.jpg", split="train") == f"train/{NFD}.jpg"


def test_images_that_only_a_record_shows_to_be_images_are_counted() -> None:
    images = ImageIndex(paths("a.jpg", "frames/0001", "labels/0001.txt"))
    assert images.count == 1
    for _ in range(2):
        assert images.find("frames/0001", PurePosixPath()) == "frames/0001"
    assert images.count == 2


def test_search_time_is_independent_of_namesakes() -> None:
    """One frame of the same name in each of 4,000 videos: a linear search would take 16 million steps."""
    files = [PurePosixPath(f"frames/{video:04}/00001.jpg") for video in range(4000)]
    images = ImageIndex(files)
    begun = time.process_time()
    for file in files:
        assert images.find_stem(file.stem, PurePosixPath("notes") / file.parent.name) == str(file)
    assert time.process_time() - begun < 3


def test_size_of_an_invalid_image(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("a.png", "nowhere.png"):
        result = read_image_size(tmp_path / name)
        assert isinstance(result, Issue)
        assert result.code == "undecodable_image"
