"""VoTT: left, top, width, height as edges."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import recognize, vott

Write = Callable[..., Path]


def asset(name: str, *regions: Any) -> dict[str, Any]:
    about = {"name": name, "path": f"file:/home/me/{name}", "size": {"width": 40, "height": 30}}
    return {"asset": about, "regions": list(regions), "version": "2.2.0"}


def region(*tags: Any, **box: Any) -> dict[str, Any]:
    return {
        "type": "RECTANGLE",
        "tags": list(tags),
        "boundingBox": {"left": 1, "top": 2.5, "width": 10, "height": 20} | box,
    }


@pytest.mark.parametrize("form", ["export", "assets", "both"])
def test_projects(tmp_path: Path, picture: Write, form: str) -> None:
    assets = {"1f": asset("a.png", region("cat"), region("cat", "pet")), "2e": asset("b.png")}
    for content in assets.values():
        picture(tmp_path / "images" / content["asset"]["name"])
    if form != "assets":
        (tmp_path / "mine-export.json").write_text(json.dumps({"name": "mine", "tags": [], "assets": assets}))
    if form != "export":
        for id, content in assets.items():
            (tmp_path / f"{id}-asset.json").write_text(json.dumps(content))
    assert recognize(tmp_path) == "vott"
    dataset = vott.read(tmp_path)
    assert list(dataset.splits) == ["all" if form == "assets" else "mine"]
    assert [category.name for category in dataset.categories] == ["cat", "pet"]
    first, empty = next(iter(dataset.splits.values())).images
    assert (first.file, first.declared_size, empty.objects) == ("images/a.png", (40, 30), ())
    assert [(item.class_name, item.box) for item in first.objects] == [
        (name, (1, 2.5, 10, 20)) for name in ("cat", "cat", "pet")
    ]


def test_invalid_records(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    assets = {"1": asset("a.png", region("cat", left=None), region(), 7), "2": asset(""), "3": 7}
    (tmp_path / "x-export.json").write_text(json.dumps({"assets": assets}))
    first, *others = vott.read(tmp_path).splits["x"].images
    assert [item.issue.message for item in first.objects if item.issue] == [
        "left, top, width, height are [None, 2.5, 10, 20], not four numbers",
        "needs a class, has None",
        "left, top, width, height are [None, None, None, None], not four numbers",
    ]
    assert [image.issue.code for image in others if image.issue] == ["invalid_record"] * 2
    (tmp_path / "x-export.json").write_text('{"assets": [{"asset": 1, "regions": 1}]}')
    with pytest.raises(PipelineError, match=r"^x-export\.json: not a VoTT export"):
        vott.read(tmp_path)
