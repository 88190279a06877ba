"""WIDER FACE: left, top, width, height of faces."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.formats import recognize, widerface

Write = Callable[..., Path]


def test_faces_invalid_faces_and_images_without_faces(tmp_path: Path, picture: Write) -> None:
    for split in ("train", "val"):
        for name in ("a", "b", "c"):
            picture(tmp_path / f"WIDER_{split}" / "images/0--Parade" / f"{name}.png")
        (tmp_path / "wider_face_split").mkdir(exist_ok=True)
        (tmp_path / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt").write_text(
            "0--Parade/a.png\n2\n1 2 10 20 2 0 0 0 0 0 \n3 4 5 6 0 0 0 1 0 0 \n"
            "0--Parade/b.png\n0\n0 0 0 0 0 0 0 0 0 0 \n0--Parade/c.png\n1\n7 8 9 10 0 0 0 0 0 0\n"
        )
    assert recognize(tmp_path) == "widerface"
    dataset = widerface.read(tmp_path)
    assert sorted(dataset.splits) == ["train", "val"]
    assert [(category.id, category.name) for category in dataset.categories] == [(1, "face")]
    first, empty, last = dataset.splits["val"].images
    assert first.file == "WIDER_val/images/0--Parade/a.png"
    assert [(item.class_name, item.box, item.difficult) for item in first.objects] == [
        ("face", (1, 2, 10, 20), 0),
        ("face", (3, 4, 5, 6), 1),
    ]
    assert first.objects[1].source == "wider_face_split/wider_face_val_bbx_gt.txt: line 4"
    assert (empty.file[-5:], empty.objects) == ("b.png", ())
    assert [item.box for item in last.objects] == [(7, 8, 9, 10)]


def test_zero_faces_without_a_line_of_zeros(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    (tmp_path / "train.txt").write_text("a.png\n1\n1 2 3 4\nb.png\n0\na.png\n1\n0 0 3 x\n")
    first, empty, again = widerface.read(tmp_path).splits["train"].images
    assert (first.file, empty.file, empty.objects, again.file) == ("a.png", "b.png", (), "a.png")
    assert again.objects[0].issue


def test_wrong_number_of_faces(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.png\n1\n1 2 3 4\n5 6 7 8\n")
    with pytest.raises(
        PipelineError, match=r"^train\.txt: line 4: 5 6 7 8 is not an image's path followed by a number"
    ):
        widerface.read(tmp_path)
