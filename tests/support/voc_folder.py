"""A fixture: a valid data set of four small images in VOC's layout."""

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., Path]


@pytest.fixture
def raw(home: Path, voc_xml: Write, picture: Write) -> Path:
    """The folder of a VOC data set with three training images and one validation image, in the workspace."""
    folder = home / "mine"
    objects: dict[str, list[tuple[object, ...]]] = {
        "a": [("dog", 1, 1, 40, 30), ("cat", 5, 6, 10, 12, 1)],
        "b": [],
        "c": [("cat", 3, 3, 9, 9)],
        "d": [("dog", 11, 11, 20, 20), ("cat", 2, 2, 8, 9)],
    }
    for seed, (stem, items) in enumerate(objects.items()):
        voc_xml(folder / "Annotations" / f"{stem}.xml", items)
        picture(folder / "JPEGImages" / f"{stem}.png", (40, 30), seed)
    lists = folder / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\nc\n")
    (lists / "val.txt").write_text("d\n")
    return folder
