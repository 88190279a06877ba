"""Names of splits, from the names of files and folders."""

from pathlib import PurePosixPath

from pipeline.formats.split_names import name_splits_by_file, name_splits_by_folder


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    generic = {PurePosixPath(f"{site}/train/_annotations.coco.json"): "_annotations.coco" for site in "ab"}
    assert list(name_splits_by_file(generic).values()) == ["a/train", "b/train"]
    specific = {PurePosixPath(f"{site}/annotations/train.json"): "train" for site in "ab"}
    assert list(name_splits_by_file(specific).values()) == ["a/annotations/train", "b/annotations/train"]


def test_a_generic_name_is_that_of_the_folder() -> None:
    files = {PurePosixPath(f"{split}/_annotations.coco.json"): "_annotations.coco" for split in ("train", "valid")}
    assert list(name_splits_by_file(files).values()) == ["train", "valid"]


def test_folders_keep_the_part_that_tells_their_purpose() -> None:
    def names(*folders: str) -> list[str]:
        return list(name_splits_by_folder([PurePosixPath(folder) for folder in folders]).values())

    assert names("train/north/labels", "train/south/labels", "val/north/labels") == [
        "train/north", "train/south", "val/north",
    ]  # fmt: skip
    assert names("test/a", "test/b") == ["a", "b"]  # the data set itself lies in a folder `test`
    assert names("a/train", "b/train", "c") == ["a/train", "b/train", "c"]
    assert names("images", "labels") == ["all", "all"]
    assert names("x") == ["all"]
    assert names() == []
