"""An archive with the same boxes in nine formats: 100 images of VOC 2012, converted from each."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import pytest

from pipeline import params
from pipeline.conversion import survey
from pipeline.formats import recognize
from tests.support.projects import PROJECT

Objects = dict[str, list[tuple[str, tuple[float, ...], int]]]

# By form: its format, and how far a side may be off, in pixels of images 500 px wide at most.
FORMS = {
    "coco_format_v1": ("coco", 0.0),
    "coco_format_v2": ("coco", 0.0),
    "pascalvoc_format": ("voc", 0.0),
    "imagenet_format": ("voc", 0.0),
    "cvat_format": ("cvat", 0.0),
    "labelme_format": ("labelme", 0.0),
    "openimages_format": ("openimages", 1e-7),  # ten decimals of a share
    "tfrecord_format": ("tfrecord", 5e-5),  # shares as 32-bit floats
    "yolo_format": ("yolo", 5e-4),  # six decimals of a center and a size
}
# The archive's maker took VOC's 1-based, inclusive numbers for edges in all forms but these two: left and top are
# one pixel further on there.
ONE_BASED = {"pascalvoc_format", "imagenet_format"}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    archive = PROJECT.parent / "shared/data/multiformat-voc2012-100.zip"
    if not archive.is_file():
        pytest.skip("../shared/data/multiformat-voc2012-100.zip is not there")
    folder = tmp_path_factory.mktemp("multiformat")
    with ZipFile(archive) as content:
        content.extractall(folder)
    yield next(folder.iterdir())
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def alone(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """One format with the images, as a separate data set."""

    def place(form: str) -> Path:
        folder = tmp_path_factory.mktemp(form)
        shutil.copytree(unpacked / "gts" / form, folder / "annotations")
        (folder / "images").symlink_to(unpacked / "images")
        return folder

    return place


def converted(folder: Path) -> Objects:
    """The objects of all splits by image file."""
    options = replace(params.load(PROJECT / "params.yaml").convert, image_check="header")
    objects: Objects = {}
    for split in survey(folder, options).splits.values():
        names = {category.id: category.name for category in split.categories}
        for image in split.images:
            items = split.by_image()[image.id]
            objects[image.file_name] = sorted((names[item.category_id], item.bbox, item.difficult) for item in items)
    return objects


def sides(box: tuple[float, ...], shift: int) -> tuple[float, ...]:
    x, y, width, height = box
    return (x + shift, y + shift, x + width, y + height)


@pytest.fixture(scope="module")
def truth(alone: Callable[[str], Path]) -> Objects:
    found = converted(alone("pascalvoc_format"))
    assert len(found) == 100
    assert sum(len(objects) for objects in found.values()) == 273
    assert sum(difficult for objects in found.values() for _, _, difficult in objects) == 38
    return found


@pytest.mark.parametrize("form", FORMS)
def test_same_data_from_every_format(form: str, alone: Callable[[str], Path], truth: Objects) -> None:
    folder = alone(form)
    format, precision = FORMS[form]
    assert recognize(folder) == format
    found = converted(folder)
    assert found.keys() == truth.keys()
    for file, objects in found.items():
        assert [name for name, _, _ in objects] == [name for name, _, _ in truth[file]]
        for (_, box, difficult), (_, true, really) in zip(objects, truth[file], strict=True):
            shift = 0 if form in ONE_BASED else 1
            assert sides(box, 0) == pytest.approx(sides(true, shift), rel=0, abs=precision or 1e-12), file
            # No other form of this archive says which objects are difficult.
            assert difficult == (really if form == "pascalvoc_format" else 0)
