"""SageMaker Ground Truth: left, top, width, height in pixels; classes by the line's class-map."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.formats import recognize, sagemaker

Write = Callable[..., Path]
BOX = {"class_id": 1, "top": 2, "left": 1.5, "width": 10, "height": 20}
CLASSES = {"0": "Echo Dot", "1": "Echo"}


def line(name: str, *boxes: Any, job: str = "bounding-box", classes: Any = CLASSES) -> dict[str, Any]:
    metadata = {
        "objects": [{"confidence": 1}] * len(boxes),
        "class-map": classes,
        "type": "groundtruth/object-detection",
    }
    return {
        "source-ref": f"s3://bucket/photos/{name}",
        job: {"image_size": [{"width": 40, "height": 30, "depth": 3}], "annotations": list(boxes)},
        f"{job}-metadata": metadata,
    }


def save(path: Path, *lines: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_boxes(tmp_path: Path, picture: Write) -> None:
    for split in ("train", "test"):
        for name in ("a.png", "b.png"):
            picture(tmp_path / split / name)
        save(tmp_path / f"{split}.manifest", line("a.png", BOX, BOX | {"class_id": 0}, job="my-job"), line("b.png"))
    assert recognize(tmp_path) == "sagemaker"
    dataset = sagemaker.read(tmp_path)
    assert sorted(dataset.splits) == ["test", "train"]
    assert [category.name for category in dataset.categories] == ["Echo", "Echo Dot"]
    first, empty = dataset.splits["train"].images
    assert (first.file, first.declared_size) == ("train/a.png", (40, 30))
    assert (empty.file, empty.objects, empty.issue) == ("train/b.png", (), None)
    assert [(item.class_name, item.box) for item in first.objects] == [
        ("Echo", (1.5, 2, 10, 20)),
        ("Echo Dot", (1.5, 2, 10, 20)),
    ]
    assert first.objects[1].source == "train.manifest: line 1: object 2"


def test_adjusted_labels_replace_those_before(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    adjusted = line("a.png", BOX | {"left": 3, "class_id": 0}, job="second", classes={"0": "cat"})
    save(tmp_path / "output.manifest", line("a.png", BOX, BOX, job="first") | adjusted)
    (image,) = sagemaker.read(tmp_path).splits["output"].images
    assert [(item.class_name, item.box) for item in image.objects] == [("cat", (3, 2, 10, 20))]


def test_invalid_records(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    wrong: list[Any] = [BOX | {"top": None}, BOX | {"class_id": 7}, BOX | {"class_id": "1"}, 7]
    failed = {"source-ref": "s3://bucket/a.png", "my-job-metadata": {"failure-reason": "no workers"}}
    save(
        tmp_path / "all.manifest", line("a.png", *wrong), line("lost.png"), failed, line("a.png") | {"source-ref": 1}, 3
    )
    with (tmp_path / "all.manifest").open("a") as file:
        file.write('{"source-ref": ')
    first, *others = sagemaker.read(tmp_path).splits["all"].images
    assert [(item.issue.code, item.issue.message) for item in first.objects if item.issue] == [
        ("invalid_record", "left, top, width, height are [1.5, None, 10, 20], not four numbers"),
        ("unknown_class", "class_id 7 is not in the class-map"),
        ("unknown_class", "class_id 1 is not in the class-map"),
        ("invalid_record", "left, top, width, height are [None, None, None, None], not four numbers"),
    ]
    messages = [image.issue.message for image in others if image.issue]
    assert messages[:4] == [
        "image 's3://bucket/photos/lost.png' not found",
        "needs a list of objects, has None",
        "needs the name of an image, has 1",
        "needs the name of an image, has None",
    ]
    assert messages[4].startswith("not JSON: ")


def test_a_broken_class_map(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    maps: list[Any] = [None, [], {"1": " "}, {"1": 5}]
    save(tmp_path / "all.manifest", *(line("a.png", BOX, classes=classes) for classes in maps))
    images = sagemaker.read(tmp_path).splits["all"].images
    codes = [item.issue.code if item.issue else item.class_name for image in images for item in image.objects]
    assert codes == ["unknown_class", "unknown_class", "invalid_record", "5"]


def test_other_manifests_are_not_read(tmp_path: Path, picture: Write) -> None:
    """Lists of images to label, and labels of whole images."""
    picture(tmp_path / "a.png")
    save(tmp_path / "input.manifest", {"source-ref": "s3://bucket/a.png"})
    save(
        tmp_path / "classes.manifest",
        {"source-ref": "s3://bucket/a.png", "job": 1, "job-metadata": {"class-name": "a"}},
    )
    save(tmp_path / "output.manifest", line("a.png", BOX))
    assert list(sagemaker.read(tmp_path).splits) == ["output"]
