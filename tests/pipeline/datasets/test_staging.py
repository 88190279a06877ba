"""Data sets that can't be read in place are unpacked or linked, and nothing is written beside them."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tfrecord import example_pb2

from pipeline.datasets.staging import stage_dataset
from pipeline.formats import read
from tests.support.tfrecords import framed

Write = Callable[..., Path]


@pytest.fixture
def embedded(tmp_path: Path, picture: Write) -> Path:
    """Records with a picture inside and with a file beside."""
    folder = tmp_path / "given"
    picture(folder / "images" / "beside.png")
    inside = io.BytesIO()
    Image.new("RGB", (40, 30)).save(inside, "PNG")
    with (folder / "train.record").open("wb") as records:
        for name in ("beside.png", "inside.png"):
            example = example_pb2.Example()
            feature = example.features.feature
            feature["image/filename"].bytes_list.value.append(name.encode())
            feature["image/encoded"].bytes_list.value.append(inside.getvalue())
            feature["image/object/class/text"].bytes_list.value.append(b"cat")
            for side, share in (("xmin", 0.25), ("ymin", 0.5), ("xmax", 0.5), ("ymax", 1)):
                feature[f"image/object/bbox/{side}"].float_list.value.append(share)
            records.write(framed(example.SerializeToString()))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_that_can_be_read_stays_in_place(tmp_path: Path, picture: Write) -> None:
    picture(tmp_path / "given" / "a.png")
    (tmp_path / "given" / "train.csv").write_text("a.png,1,2,11,22,cat\n")
    assert stage_dataset(tmp_path / "given", tmp_path / "staging") == tmp_path / "given"
    assert not (tmp_path / "staging").exists()


@pytest.mark.parametrize("links", ["hard", "symbolic"])
def test_images_inside_records(tmp_path: Path, embedded: Path, links: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Symbolic links serve where the folder is on another file system."""
    if links == "symbolic":
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another file system")))
    before = names(embedded)
    staging = tmp_path / "staging"
    assert stage_dataset(embedded, staging) == staging
    assert names(staging) == ["images/beside.png", "train.record", "train.record.images/000002_inside.png"]
    assert [image.file for image in read(staging).splits["train"].images] == [
        "images/beside.png",
        "train.record.images/000002_inside.png",
    ]
    shutil.rmtree(staging)
    assert names(embedded) == before


def test_archive_with_images_inside_records(tmp_path: Path, embedded: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "set"), "zip", embedded))
    staging = stage_dataset(archive, tmp_path / "staging")
    assert [image.issue for image in read(staging).splits["train"].images] == [None, None]


def test_another_format_leaves_records_alone(tmp_path: Path, embedded: Path) -> None:
    (embedded / "train.csv").write_text("images/beside.png,1,2,11,22,cat\n")
    assert stage_dataset(embedded, tmp_path / "staging", "retinanet") == embedded
