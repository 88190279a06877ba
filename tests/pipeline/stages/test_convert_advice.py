"""The options that messages about splits print: with them, the convert stage succeeds."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from dvc.utils.hydra import apply_overrides

Stage = Callable[[str], subprocess.CompletedProcess[str]]
OPTION = re.compile(r"-S ('[^']+'|\S+[^\s;,.)])")


@pytest.fixture
def write_data(home: Path, setting: Callable[..., None], picture: Callable[..., Path]) -> Callable[..., None]:
    """Writes COCO files of images that are named by a letter each: `write_data({"train.json": "abc"})`."""

    def write(files: Mapping[str, str], **params: object) -> None:
        setting(dataset="custom", **{"convert.split_seed": "auto", **params})
        for name, letters in files.items():
            images = [{"id": ord(letter), "file_name": f"{letter}.png"} for letter in letters]
            boxes = [
                {"id": item["id"], "image_id": item["id"], "category_id": 1, "bbox": [2, 2, 9, 9]} for item in images
            ]
            content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "cat"}]}
            path = home / "data/custom" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content))
            for letter in letters:
                # An upper-case letter is a copy of the lower-case one.
                picture(home / f"data/custom/images/{letter}.png", seed=ord(letter.lower()))

    return write


def follow_advice(home: Path, text: str) -> None:
    options = [option.strip("'") for option in OPTION.findall(text)]
    assert options, text
    apply_overrides(home / "params.yaml", options)


@pytest.mark.parametrize(
    ("files", "params", "splits"),
    [
        ({"train.json": "abcdefgh", "val.json": "ABCDEFGH"}, {}, {"train", "val"}),  # byte-for-byte copies
        ({"train.json": "abcdefgh", "val.json": "ABCDEFGH"}, {"convert.val": "val"}, {"train", "val"}),
        ({"train.json": "abcdefgh", "val.json": "xyz", "test.json": "ABCDEFGH"}, {}, {"train", "val"}),
        ({"train.json": "ab", "val.json": "cdef", "test.json": "CDEF"}, {}, {"train", "val"}),
        ({"train.json": "abcdef", "val.json": "abcdef"}, {"convert.val": "val"}, {"train", "val"}),
        ({"v 1.json": "abcdef", "v 2.json": "abcdef"}, {}, {"train", "val"}),
        ({"val.json": "abc", "test.json": "def"}, {}, {"train", "val"}),
        ({"north.json": "abc", "south.json": "def"}, {"convert.train": "north"}, {"train", "val"}),
    ],
)
def test_options_in_errors(
    home: Path,
    stage: Stage,
    write_data: Callable[..., None],
    files: dict[str, str],
    params: dict[str, str],
    splits: set[str],
) -> None:
    write_data(files, **params)
    assert stage("download").returncode == 0
    failed = stage("convert")
    assert failed.returncode == 1
    follow_advice(home, failed.stderr.split(", -S convert.folds")[0])
    followed = stage("convert")
    assert followed.returncode == 0, followed.stderr
    assert {path.stem for path in (home / "data/unified").iterdir()} == {*splits, "report"}


@pytest.mark.parametrize(
    "files",
    [
        {"train.json": "abcdefgh", "val.json": "abcdefgh"},
        {"train.json": "abcdefgh", "val.json": "abcdefgh", "test.json": "abcdefgh"},
        {"train.json": "abcdef", "val.json": "gh", "north.json": "ij"},
        {"train.json": "abcdef", "train_small.json": "abcd", "val.json": "gh"},
    ],
)
def test_options_in_remarks(home: Path, stage: Stage, write_data: Callable[..., None], files: dict[str, str]) -> None:
    write_data(files)
    assert stage("download").returncode == 0
    first = stage("convert")
    assert first.returncode == 0, first.stderr
    follow_advice(home, first.stdout)
    shutil.rmtree(home / "data/unified")
    followed = stage("convert")
    assert followed.returncode == 0, followed.stderr
