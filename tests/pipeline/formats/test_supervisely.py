"""Supervisely: points are pixels inside the figure, so right − left + 1 is the width."""

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.formats import recognize, supervisely

Write = Callable[..., Path]


def figure(kind: str, points: Any, name: str = "cat", **more: Any) -> dict[str, Any]:
    return {
        "classTitle": name,
        "geometryType": kind,
        "points": {"exterior": points, "interior": []},
        "tags": [],
        **more,
    }


def mask(size: tuple[int, int]) -> str:
    content = io.BytesIO()
    Image.new("1", size).save(content, "PNG")
    return base64.b64encode(zlib.compress(content.getvalue())).decode()


def save(path: Path, *objects: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"description": "", "tags": [], "size": {"height": 30, "width": 40}, "objects": list(objects)}
    path.write_text(json.dumps(content))


def test_figures_and_classes(tmp_path: Path, picture: Write) -> None:
    bitmap = {"bitmap": {"origin": [3, 4], "data": mask((6, 5))}}
    for split in ("train", "val"):
        for name in ("a.png", "b.png"):
            picture(tmp_path / split / "img" / name)
        save(
            tmp_path / split / "ann/a.png.json",
            figure("rectangle", [[10, 22], [1, 2]]),
            figure("polygon", [[1, 1], [5, 2], [3, 8]], "dog"),
            figure("bitmap", None, **bitmap),
        )
        save(tmp_path / split / "ann/b.png.json")
    (tmp_path / "meta.json").write_text(json.dumps({"classes": [{"title": "dog"}, {"title": "cat"}], "tags": []}))
    assert recognize(tmp_path) == "supervisely"
    dataset = supervisely.read(tmp_path)
    assert [category.name for category in dataset.categories] == ["dog", "cat"]
    assert sorted(dataset.splits) == ["train", "val"]
    first, empty = dataset.splits["train"].images
    assert (first.file, first.declared_size, empty.objects) == ("train/img/a.png", (40, 30), ())
    assert [(item.class_name, item.box) for item in first.objects] == [
        ("cat", (1, 2, 10, 21)),
        ("dog", (1, 1, 5, 8)),
        ("cat", (3, 4, 6, 5)),
    ]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (figure("point", [[1, 2]]), "figure point has no area; supported: rectangle, polygon, bitmap"),
        (figure("rectangle", [[1, 2]]), "a rectangle needs 2 or more points"),
        (figure("polygon", [[1, 2], [3, 4], [5]]), "a polygon needs 3 or more points"),
        (figure("rectangle", [[1, 2], [3, 4]], ""), "needs a class, has "),
        (figure("bitmap", None, bitmap={"origin": [1, 2], "data": "AAAA"}), "the bitmap can't be read: error"),
        (figure("bitmap", None, bitmap={"data": mask((2, 2))}), "the bitmap needs an origin"),
    ],
)
def test_invalid_figures(tmp_path: Path, picture: Write, item: dict[str, Any], message: str) -> None:
    picture(tmp_path / "a.png")
    save(tmp_path / "a.png.json", item)
    [found] = supervisely.read(tmp_path).splits["all"].images[0].objects
    assert found.issue
    assert found.issue.message == message


def test_files_without_a_description(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "ds/img/a.png")
    (tmp_path / "ds/ann").mkdir()
    content = {"size": {"height": 30, "width": 40}, "tags": [], "objects": [figure("rectangle", [[1, 2], [10, 21]])]}
    (tmp_path / "ds/ann/a.png.json").write_text(json.dumps(content))
    assert recognize(tmp_path) == "supervisely"


def test_damaged_files(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    save(tmp_path / "ann/a.png.json")
    (tmp_path / "ann/b.png.json").write_text("{")
    _, damaged = supervisely.read(tmp_path).splits["all"].images
    assert damaged.issue
    assert damaged.issue.message.startswith("not JSON")
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(PipelineError, match=r"^meta\.json: not JSON"):
        supervisely.read(tmp_path)
