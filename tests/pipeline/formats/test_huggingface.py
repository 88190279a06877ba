"""Hugging Face's metadata.jsonl: boxes are left, top, width, height."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats import huggingface, recognize

Write = Callable[..., Path]
BOXES = [[1, 2.5, 10, 20], [0, 0, 5, 5]]
CARD = """---
dataset_info:
  features:
  - name: objects
    sequence:
    - name: category
      dtype:
        class_label:
          names:
            '0': Coverall
            '1': "Face_Shield"
  splits: []
---
"""


def save(folder: Path, *lines: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    "objects",
    [
        {"bbox": BOXES, "categories": ["cat", "dog"]},
        {"id": [1, 2], "bbox": BOXES, "category": ["cat", "dog"], "area": [200, 25]},
        [{"bbox": BOXES[0], "label": "cat"}, {"bbox": BOXES[1], "label": "dog"}],
    ],
)
def test_objects(tmp_path: Path, picture: Write, objects: Any) -> None:
    for split in ("train", "validation"):
        picture(tmp_path / "data" / split / "images" / "a.png")
        picture(tmp_path / "data" / split / "b.png")
        save(tmp_path / "data" / split, {"file_name": "images/a.png", "objects": objects}, {"file_name": "b.png"})
    assert recognize(tmp_path) == "huggingface"
    dataset = huggingface.read(tmp_path)
    assert sorted(dataset.splits) == ["train", "validation"]
    assert [category.name for category in dataset.categories] == ["cat", "dog"]
    first, empty = dataset.splits["train"].images
    assert (first.file, empty.file, empty.objects) == ("data/train/images/a.png", "data/train/b.png", ())
    assert [(item.class_name, item.box) for item in first.objects] == [
        ("cat", (1, 2.5, 10, 20)),
        ("dog", (0, 0, 5, 5)),
    ]
    assert first.objects[1].source == "data/train/metadata.jsonl: line 1: object 2"


@pytest.mark.parametrize(("card", "names"), [(CARD, ["Coverall", "Face_Shield"]), ("", ["0", "1"])])
@pytest.mark.parametrize(("card_in", "metadata_in"), [(".", "."), ("PPE", "PPE"), ("PPE", "PPE/data/all")])
def test_class_numbers(
    tmp_path: Path, picture: Write, card: str, names: list[str], card_in: str, metadata_in: str
) -> None:
    picture(tmp_path / metadata_in / "a.png")
    (tmp_path / card_in).mkdir(exist_ok=True)
    (tmp_path / card_in / "README.md").write_text(card)
    save(tmp_path / metadata_in, {"file_name": "a.png", "objects": {"bbox": BOXES, "categories": [1, 0]}})
    dataset = huggingface.read(tmp_path)
    assert [category.name for category in dataset.categories] == names
    (split,) = dataset.splits.values()
    assert [item.class_name for item in split.images[0].objects] == names[::-1]


def test_invalid_lines(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    save(
        tmp_path,
        {"file_name": "a.png", "objects": {"bbox": [[1, 2, 3], "x"], "categories": ["cat", None]}},
        {"file_name": "a.png", "objects": {"bbox": BOXES, "categories": ["cat"]}},
        {"file_name": "", "objects": {"bbox": [], "categories": []}},
    )
    with (tmp_path / "metadata.jsonl").open("a") as file:
        file.write('{"file_name": \n')
    first, *others = huggingface.read(tmp_path).splits["all"].images
    assert [item.issue.message for item in first.objects if item.issue] == [
        "x, y, width, height are [1, 2, 3], not four numbers",
        "x, y, width, height are ['x'], not four numbers",
    ]
    assert [(image.source, image.issue.message) for image in others if image.issue] == [
        ("metadata.jsonl: line 2", "objects need lists bbox and categories of equal length"),
        ("metadata.jsonl: line 3", "needs the name of an image, has "),
        ("metadata.jsonl: line 4", "not JSON: Expecting value at line 1 column 15"),
    ]
