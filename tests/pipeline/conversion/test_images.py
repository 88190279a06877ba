"""What is told of an image file, whole, cut or no image at all."""

import hashlib
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.conversion import images
from pipeline.conversion.images import Look, glance, look, looks, trusted
from pipeline.formats.records import Fault, RawImage


@pytest.fixture
def pixels() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif"])
def test_whole_and_cut(tmp_path: Path, pixels: Image.Image, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    pixels.save(path)
    content = path.read_bytes()
    whole = look(path)
    assert isinstance(whole, Look)
    assert (whole.width, whole.height, whole.digest) == (90, 60, hashlib.sha256(content).hexdigest())
    path.write_bytes(content[: len(content) // 2])
    cut = look(path)
    assert isinstance(cut, Fault)
    assert cut.code in {"webp": ["undecodable_image"], "tif": ["undecodable_image", "truncated_image"]}.get(
        suffix, ["truncated_image"]
    )
    assert "\n" not in cut.message
    assert str(tmp_path) not in cut.message


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "the file is empty"), (b"GIF?", "not in a known image format"), (b"\xff\xd8\xff", "not in a known")],
)
def test_no_image(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    for found in (look(tmp_path / "x.jpg"), glance(tmp_path / "x.jpg")):
        assert isinstance(found, Fault)
        assert found.code == "undecodable_image"
        assert said in found.message


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jpg", tmp_path):
        found = look(path)
        assert isinstance(found, Fault)
        assert found.code == "undecodable_image"


def test_a_header_is_read_without_its_pixels(tmp_path: Path, pixels: Image.Image) -> None:
    path = tmp_path / "x.jpg"
    pixels.save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-2000])
    found = glance(path)
    assert found == Look(90, 60, hashlib.sha256(content[:-2000]).hexdigest())


def test_a_trusted_record_is_not_looked_at() -> None:
    found = trusted(RawImage("x", "nowhere/x.jpg", declared=(7, 5)))
    assert isinstance(found, Look)
    assert (found.width, found.height) == (7, 5)
    assert found != trusted(RawImage("x", "nowhere/y.jpg", declared=(7, 5)))
    other = trusted(RawImage("x", "nowhere/x.jpg", declared=(5, 7)))
    assert isinstance(other, Look)
    assert found.digest == other.digest
    silent = trusted(RawImage("x", "nowhere/x.jpg"))
    assert isinstance(silent, Fault)
    assert (silent.code, "-S convert.image_check=header" in silent.message) == ("invalid_record", True)


def test_several_are_looked_at_at_once(tmp_path: Path, pixels: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core")
    pixels.save(tmp_path / "x.png")
    together = threading.Barrier(2, timeout=20)

    def one(path: Path) -> Look | Fault:
        together.wait()
        return look(path)

    monkeypatch.setattr(images, "look", one)
    assert len(list(looks(tmp_path, ["x.png", "x.png"], "decode"))) == 2


def test_progress_is_shown(
    tmp_path: Path, pixels: Image.Image, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels.save(tmp_path / "x.png")
    monkeypatch.setattr(images, "DELAY", 0.0)
    list(looks(tmp_path, ["x.png"] * 3, "header"))
    shown = capsys.readouterr().err
    assert re.search(r"reading images' headers: 100%\|.*\| 3/3 \[\d+:\d+<\d+:\d+, +[\d.]+image/s\]", shown), shown


def test_order_is_kept(tmp_path: Path, pixels: Image.Image) -> None:
    for width in range(10, 40):
        pixels.crop((0, 0, width, 20)).save(tmp_path / f"{width}.png")
    files = [f"{width}.png" for width in range(10, 40)]
    for mode in ("decode", "header"):
        found = list(looks(tmp_path, files, mode))
        assert [item.width for item in found if isinstance(item, Look)] == list(range(10, 40))
