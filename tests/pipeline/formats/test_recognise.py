import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import FORMATS, read, recognise

COCO = {"images": [], "annotations": [], "categories": []}


def test_each_format(tmp_path: Path, voc_xml: Callable[..., Path]) -> None:
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "x.JSON").write_text(json.dumps(COCO))
    voc_xml(tmp_path / "voc" / "deep" / "a.xml", [])
    assert recognise(tmp_path / "coco") == "coco"
    assert recognise(tmp_path / "voc") == "voc"
    with pytest.raises(PipelineError, match=r"coco \(coco/x\.JSON\) and voc \(voc/deep/a\.xml\)"):
        recognise(tmp_path)


def test_nothing_there_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('[{"image_id": 1}]')
    (tmp_path / "shapes.json").write_text('{"shapes": "of another tool"}')
    (tmp_path / "notes.xml").write_text("<annotations></annotations>")
    with pytest.raises(PipelineError, match=r"among its 3 files; looked for coco: .*; voc: ") as caught:
        recognise(tmp_path)
    assert "\n" not in str(caught.value)


def test_truncated_coco_is_recognised_and_then_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text('{\n"images": [\n{"id": 1,')
    assert recognise(tmp_path) == "coco"
    with pytest.raises(PipelineError, match=r"^train\.json: not JSON: .* line 3 column"):
        read(tmp_path)


def test_hidden_files_and_macos_leftovers_are_not_looked_at(tmp_path: Path, voc_xml: Callable[..., Path]) -> None:
    voc_xml(tmp_path / "a.xml", [])
    for folder in ("__MACOSX", ".cache"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "b.json").write_text(json.dumps(COCO))
    assert recognise(tmp_path) == "voc"


def test_unknown_format_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="'createml' is not known; known ones: coco, voc"):
        read(tmp_path, "createml")


@pytest.mark.parametrize("name", FORMATS)
def test_reading_a_folder_without_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(PipelineError, match="found"):
        read(tmp_path, name)
