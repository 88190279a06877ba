"""Names of splits, from the names of files and folders."""

from pathlib import PurePosixPath

from pipeline.formats.split_names import name_splits_by_file


def test_files_of_one_name_are_told_apart_by_their_folders() -> None:
    generic = {PurePosixPath(f"{site}/train/_annotations.coco.json"): "_annotations.coco" for site in "ab"}
    assert list(name_splits_by_file(generic).values()) == ["a/train", "b/train"]
    specific = {PurePosixPath(f"{site}/annotations/train.json"): "train" for site in "ab"}
    assert list(name_splits_by_file(specific).values()) == ["a/annotations/train", "b/annotations/train"]


def test_a_generic_name_is_that_of_the_folder() -> None:
    files = {PurePosixPath(f"{split}/_annotations.coco.json"): "_annotations.coco" for split in ("train", "valid")}
    assert list(name_splits_by_file(files).values()) == ["train", "valid"]
