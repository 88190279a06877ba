"""A YOLO data set in the layout of Ultralytics."""

from pathlib import Path

import pytest

from tests.support.yolo_files import LINE, Write, texts, yaml


@pytest.fixture
def coco8(tmp_path: Path, picture: Write) -> Path:
    """Ultralytics' layout: an image with a label file, one with an empty label file, one without."""
    for split in ("train", "val"):
        for stem in ("a", "b", "c"):
            picture(tmp_path / "images" / split / f"{stem}.png")
        texts(tmp_path, **{f"labels__{split}__a": LINE, f"labels__{split}__b": ""})
    yaml(tmp_path, "path: ../datasets/coco8\ntrain: images/train\nval: images/val\ntest:\nnames: {0: ant, 1: cat}\n")
    return tmp_path
