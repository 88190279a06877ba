"""Which image files `fcos predict` reads."""

from pathlib import Path, PurePosixPath

import PIL.Image
import pytest

from pipeline.data.image_suffixes import IMAGE_SUFFIXES
from pipeline.errors import PipelineError
from pipeline.formats.image_index import ImageIndex
from pipeline.inference.predict import find_images


def write_picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.effect_noise((60, 40), 90).save(path)
    return path


def test_pictures_of_an_earlier_run_are_not_read(tmp_path: Path) -> None:
    original = write_picture(tmp_path / "a.jpg")
    out = tmp_path / "predicted"
    write_picture(out / "a.jpg")
    assert find_images([tmp_path], out) == [original]


def test_images_have_the_same_endings_as_in_data_sets(tmp_path: Path) -> None:
    names = [f"picture{suffix}" for suffix in IMAGE_SUFFIXES] + ["scan.JFIF", "photo.Jpe"]
    for name in (*names, "notes.txt", "clip.mp4"):
        (tmp_path / name).touch()
    assert [path.name for path in find_images([tmp_path])] == sorted(names)
    assert ImageIndex([PurePosixPath(name) for name in names]).count == len(names)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no image in this folder"):
        find_images([tmp_path])
    with pytest.raises(PipelineError, match=r"none\.jpg: no such file or folder"):
        find_images([tmp_path / "none.jpg"])


def test_a_missing_image_beside_others_is_left_to_its_reader(tmp_path: Path) -> None:
    image = write_picture(tmp_path / "a.png")
    assert find_images([tmp_path / "none.jpg", image]) == [tmp_path / "none.jpg", image]
