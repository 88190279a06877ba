"""Data sets of several sites, folders and files: all their images are used, in the splits that people would choose."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import params
from pipeline.conversion import survey
from tests.support.projects import PROJECT

BASE = params.load(PROJECT / "params.yaml").convert
Write = Callable[..., Path]


def used(folder: Path) -> dict[str, set[str]]:
    """The images of each split."""
    splits = survey(folder, BASE).splits
    return {name: {image.file_name for image in split.images} for name, split in splits.items()}


@pytest.fixture
def add_image(tmp_path: Path, picture: Write) -> Callable[[str], str]:
    """Writes an image, different from the others."""
    seeds = iter(range(1000))
    return lambda name: picture(tmp_path / name, seed=next(seeds)).relative_to(tmp_path).as_posix()


def write_coco(path: Path, names: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": number, "file_name": name} for number, name in enumerate(names, 1)]
    annotations = [
        {"id": item["id"], "image_id": item["id"], "category_id": 1, "bbox": [1, 1, 9, 9]} for item in images
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("files", "train", "val"),
    [
        (["annotations/trainA.json", "annotations/trainB.json", "annotations/val.json"], "AB", "C"),
        (["train/north.json", "train/south.json", "val/north.json"], "AB", "C"),
        (["north/train.json", "south/train.json", "south/val.json"], "AB", "C"),
        (
            ["a/train/_annotations.coco.json", "b/train/_annotations.coco.json", "b/valid/_annotations.coco.json"],
            "AB",
            "C",
        ),
        (["instances_train2014.json", "instances_train2017.json", "instances_val2017.json"], "AB", "C"),
        (["test/my_train1.json", "test/my_train2.json", "test/my_val.json"], "AB", "C"),
    ],
)
def test_coco_files(tmp_path: Path, add_image: Callable[[str], str], files: list[str], train: str, val: str) -> None:
    for number, file in enumerate(files):
        letter = "ABC"[number]
        write_coco(tmp_path / file, [add_image(f"images/{letter}{index}.png") for index in range(3)])
    found = used(tmp_path)
    assert {name[7] for name in found["train"]} == set(train)
    assert {name[7] for name in found["val"]} == set(val)
    assert sum(map(len, found.values())) == 9


def test_folders_without_split_names_are_one_pool(
    tmp_path: Path, add_image: Callable[[str], str], voc_xml: Write
) -> None:
    for site in ("north", "south", "2021-05-03"):
        for index in range(5):
            add_image(f"{site}/{index}.png")
            voc_xml(tmp_path / site / f"{index}.xml", [("cat", 2, 2, 20, 20)])
    found = used(tmp_path)
    assert set(found) == {"train", "val"}
    assert len(found["train"] | found["val"]) == 15


@pytest.mark.parametrize("folders", [("train/north", "train/south", "val/north"), ("trainA", "trainB", "valA")])
@pytest.mark.parametrize("layout", ["{}/Annotations", "Annotations/{}", "{}"])
def test_voc_folders(
    tmp_path: Path, add_image: Callable[[str], str], voc_xml: Write, folders: tuple[str, ...], layout: str
) -> None:
    for folder in folders:
        for index in range(2):
            add_image(f"{folder}/{index}.png")
            voc_xml(tmp_path / layout.format(folder) / f"{index}.xml", [("cat", 2, 2, 20, 20)])
    expected = {f"{folder}/{index}.png" for folder in folders for index in range(2)}
    found = used(tmp_path)
    assert found["val"] == {f"{folders[2]}/0.png", f"{folders[2]}/1.png"}
    assert found["train"] == expected - found["val"]


def test_yolo_folders(tmp_path: Path, add_image: Callable[[str], str]) -> None:
    for folder in ("train2014", "train2017", "val2017"):
        for index in range(2):
            add_image(f"images/{folder}/{index}.png")
            (tmp_path / "labels" / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / "labels" / folder / f"{index}.txt").write_text("0 .5 .5 .4 .4\n")
    (tmp_path / "classes.txt").write_text("cat\n")
    found = used(tmp_path)
    assert found["val"] == {"images/val2017/0.png", "images/val2017/1.png"}
    assert found["train"] == {
        f"images/{folder}/{index}.png" for folder in ("train2014", "train2017") for index in (0, 1)
    }


def test_images_in_a_folder_of_the_same_purpose(tmp_path: Path, add_image: Callable[[str], str]) -> None:
    """Files of one name in both folders, and annotation files that are called otherwise."""
    for split in ("train", "val"):
        add_image(f"{split}2017/1.png")
        write_coco(tmp_path / f"annotations/custom_{split}.json", ["1.png"])
    assert used(tmp_path) == {"train": {"train2017/1.png"}, "val": {"val2017/1.png"}}


def test_a_split_whose_images_are_all_missing_is_left_out_like_a_missing_folder(
    tmp_path: Path, add_image: Callable[[str], str]
) -> None:
    write_coco(tmp_path / "train.json", [add_image(f"train/{index}.png") for index in range(8)])
    for split in ("val", "test"):
        write_coco(tmp_path / f"{split}.json", [f"{split}/x.png", f"{split}/y.png"])
    options = replace(BASE, issues="repair", split_seed="auto")
    found = survey(tmp_path, options)
    assert found.sources == {"train": "train", "val": "a share of train"}
    assert not list(found.obstacles())
    assert found.issue_log.counts["missing_image"] == 4
    assert found.issue_log.remarks == [
        "val: split val has no usable images and is left out",
        "test: split test has no usable images and is left out",
    ]
