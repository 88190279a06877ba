import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import FORMATS, read, recognize
from pipeline.formats.records import RawDataset

COCO = {"images": [], "annotations": [], "categories": []}


def test_each_format(tmp_path: Path, voc_xml: Callable[..., Path]) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "x.JSON").write_text(json.dumps(COCO))
    voc_xml(tmp_path / "voc" / "deep" / "a.xml", [])
    assert recognize(tmp_path / "coco") == "coco"
    assert recognize(tmp_path / "voc") == "voc"
    with pytest.raises(PipelineError, match=r"coco \(coco/x\.JSON, 0 images\) and voc \(voc/deep/a\.xml, 0 im"):
        recognize(tmp_path)


def test_unrecognized_folder_lists_the_expected_formats(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('[{"image_id": 1}]')
    (tmp_path / "shapes.json").write_text('{"shapes": "of another tool"}')
    (tmp_path / "notes.xml").write_text("<annotations></annotations>")
    with pytest.raises(PipelineError, match=r"no annotations recognized in 1 .*; known formats: coco, voc, ") as caught:
        recognize(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_formats_of_which_one_annotates_all_images_of_the_other(
    tmp_path: Path, picture: Callable[..., Path], voc_xml: Callable[..., Path]
) -> None:
    """LabelImg's text files in one split must not hide the XML of the others."""
    for split in ("train", "val"):
        for index in range(2):
            picture(tmp_path / split / f"{index}.png")
            voc_xml(tmp_path / split / f"{index}.xml", [("cat", 1, 2, 3, 4)])
    (tmp_path / "train" / "0.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "train" / "classes.txt").write_text("cat\n")
    found = read(tmp_path)
    assert (found.format, {name: len(split.images) for name, split in found.splits.items()}) == (
        "voc",
        {"train": 2, "val": 2},
    )
    assert found.remarks == (
        "read as voc (train/0.xml, 4 images); its images include all of yolo (train/classes.txt, 1 image), left out",
    )
    for index in range(2):
        (tmp_path / "val" / f"{index}.xml").unlink()
        (tmp_path / "val" / f"{index}.txt").write_text("0 .5 .5 .2 .2\n")
    with pytest.raises(PipelineError, match=r"voc \(train/0\.xml, 2 images\) and yolo \(.*, 3 images\); choose"):
        read(tmp_path)


def test_truncated_coco_is_recognized_and_then_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{\n"images": [\n{"id": 1,')
    assert recognize(tmp_path) == "coco"
    with pytest.raises(PipelineError, match=r"^train\.json: not JSON: .* line 3 column"):
        read(tmp_path)


def test_hidden_files_and_macos_metadata_are_ignored(tmp_path: Path, voc_xml: Callable[..., Path]) -> None:
    voc_xml(tmp_path / "a.xml", [])
    for folder in ("__MACOSX", ".cache"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "b.json").write_text(json.dumps(COCO))
    assert recognize(tmp_path) == "voc"


def test_unknown_format_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="unknown format 'word'; choose one of coco, voc"):
        read(tmp_path, "word")


def test_files_that_tools_derive_from_another_format(
    tmp_path: Path, picture: Callable[..., Path], voc_xml: Callable[..., Path]
) -> None:
    """A table of the same images is left out without a word; XML of one image doesn't hide a table of more."""
    rows = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for index in range(3):
        picture(tmp_path / f"{index}.png")
        voc_xml(tmp_path / f"{index}.xml", [("cat", 1, 2, 3, 4)])
        rows.append(f"{index}.png,40,30,cat,1,2,3,4")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    assert (read(tmp_path).format, read(tmp_path).remarks) == ("voc", ())
    (tmp_path / "2.xml").unlink()
    found = read(tmp_path)
    assert found.format == "csv"
    assert found.remarks[0].startswith("read as csv (labels.csv, 3 images); its images include all of voc (0.xml, 2 im")
    voc_xml(tmp_path / "2.xml", [("cat", 1, 2, 3, 4)])
    (tmp_path / "labels.csv").write_text("\n".join([*rows[:-1], "3.png,40,30,cat,1,2,3,4"]))
    picture(tmp_path / "3.png")
    with pytest.raises(PipelineError, match=r"voc \(.*, 3 images\) and csv \(.*, 3 images\); choose one"):
        read(tmp_path)


def test_plus_signs_in_names_of_splits(tmp_path: Path) -> None:
    """`A+B` means both splits in parameters."""
    for name in ("north+south", "train"):
        (tmp_path / f"{name}.json").write_text(json.dumps(COCO))
    assert list(read(tmp_path).splits) == ["north-south", "train"]


@pytest.mark.parametrize("name", FORMATS)
def test_reading_a_folder_without_the_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(PipelineError, match="found"):
        read(tmp_path, name)


@pytest.fixture
def unpacked(tmp_path: Path, archive: Callable[[str], Path]) -> Callable[[str], Path]:
    def unpack(name: str) -> Path:
        shutil.unpack_archive(archive(name), tmp_path)
        return tmp_path

    return unpack


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("bccd.zip", {"train": (205, 2805), "val": (87, 1138), "trainval": (292, 3943), "test": (72, 945)}),
        ("raccoon.zip", {"all": (200, 217)}),  # with tables of the same boxes beside them, TensorFlow's
    ],
)
def test_real_data_sets(unpacked: Callable[[str], Path], name: str, splits: dict[str, tuple[int, int]]) -> None:
    dataset = read(unpacked(name))
    assert not any(image.issue for split in dataset.splits.values() for image in split.images)
    found = {name: (len(s.images), sum(len(image.objects) for image in s.images)) for name, s in dataset.splits.items()}
    assert found == splits


def test_several_formats_are_an_error(unpacked: Callable[[str], Path]) -> None:
    with pytest.raises(
        PipelineError, match=r"annotations in several formats: coco .* and voc .* and openimages .*; choose one"
    ):
        read(unpacked("multiformat-voc2012-100.zip"))


Found = dict[str, list[tuple[str, tuple[float, ...]]]]


def boxes(dataset: RawDataset) -> Found:
    """Class and box of every object, by image file; corners to a hundredth of a pixel."""
    [split] = dataset.splits.values()
    return {
        image.file: sorted((item.class_name, corners(item.box)) for item in image.objects if not item.issue)
        for image in split.images
    }


def corners(box: tuple[float, float, float, float]) -> tuple[float, ...]:
    x, y, width, height = box
    return tuple(round(side, 2) for side in (x, y, x + width, y + height))


def test_several_formats_give_the_same_data(unpacked: Callable[[str], Path], tmp_path: Path) -> None:
    """The other files take VOC's xmin and ymin for edges: their boxes lack the first column and row."""
    truth = unpacked("multiformat-voc2012-100.zip") / "multiformat-voc2012-100"
    found = {}
    for form, format in {
        "pascalvoc_format": "voc",
        "imagenet_format": "voc",
        "coco_format_v1": "coco",
        "coco_format_v2": "coco",
        "openimages_format": "openimages",
    }.items():
        (tmp_path / form).mkdir()
        (truth / "gts" / form).rename(tmp_path / form / "annotations")
        (tmp_path / form / "images").symlink_to(truth / "images")
        found[form] = boxes(read(tmp_path / form, format))
    expected = found["pascalvoc_format"]
    assert (len(expected), sum(map(len, expected.values()))) == (100, 273)
    assert found["imagenet_format"] == expected
    moved = {
        file: sorted((name, (x + 1, y + 1, right, bottom)) for name, (x, y, right, bottom) in objects)
        for file, objects in expected.items()
    }
    assert found["coco_format_v1"] == found["coco_format_v2"] == found["openimages_format"] == moved
