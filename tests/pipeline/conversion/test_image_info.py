"""Information on image files: complete, truncated and invalid ones."""

import hashlib
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.conversion import image_info
from pipeline.conversion.image_info import ImageInfo, decode_image, read_header, read_image_infos, trust_record
from pipeline.data.image_files import PixelLimit
from pipeline.formats.records import Issue, RawImage


@pytest.fixture
def pixels() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "tif"])
def test_complete_and_truncated_image(tmp_path: Path, pixels: Image.Image, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    pixels.save(path)
    content = path.read_bytes()
    whole = decode_image(path)
    assert isinstance(whole, ImageInfo)
    assert (whole.width, whole.height, whole.digest) == (90, 60, hashlib.sha256(content).hexdigest())
    path.write_bytes(content[: len(content) // 2])
    cut = decode_image(path)
    assert isinstance(cut, Issue)
    assert cut.code in {"webp": ["undecodable_image"], "tif": ["undecodable_image", "truncated_image"]}.get(
        suffix, ["truncated_image"]
    )
    assert "\n" not in cut.message
    assert str(tmp_path) not in cut.message


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty"), (b"GIF?", "unknown image format"), (b"\xff\xd8\xff", "unknown image format")],
)
def test_invalid_image(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    for result in (decode_image(tmp_path / "x.jpg"), read_header(tmp_path / "x.jpg")):
        assert isinstance(result, Issue)
        assert result.code == "undecodable_image"
        assert message in result.message


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.jpg", tmp_path):
        result = decode_image(path)
        assert isinstance(result, Issue)
        assert result.code == "undecodable_image"


def test_a_header_is_read_without_its_pixels(tmp_path: Path, pixels: Image.Image) -> None:
    path = tmp_path / "x.jpg"
    pixels.save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-2000])
    result = read_header(path)
    assert result == ImageInfo(90, 60, hashlib.sha256(content[:-2000]).hexdigest())


def test_trusted_record_is_not_read() -> None:
    result = trust_record(RawImage("x", "nowhere/x.jpg", declared_size=(7, 5)))
    assert isinstance(result, ImageInfo)
    assert (result.width, result.height) == (7, 5)
    assert result != trust_record(RawImage("x", "nowhere/y.jpg", declared_size=(7, 5)))
    other = trust_record(RawImage("x", "nowhere/x.jpg", declared_size=(5, 7)))
    assert isinstance(other, ImageInfo)
    assert result.digest == other.digest
    silent = trust_record(RawImage("x", "nowhere/x.jpg"))
    assert isinstance(silent, Issue)
    assert (silent.code, "-S convert.image_check=header" in silent.message) == ("invalid_record", True)


def test_images_are_read_in_parallel(tmp_path: Path, pixels: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is one core")
    pixels.save(tmp_path / "x.png")
    together = threading.Barrier(2, timeout=20)

    def one(path: Path, _: PixelLimit) -> ImageInfo | Issue:
        together.wait()
        return decode_image(path)

    monkeypatch.setattr(image_info, "decode_image", one)
    assert len(list(read_image_infos(tmp_path, ["x.png", "x.png"], "decode"))) == 2


def test_progress_is_shown(
    tmp_path: Path, pixels: Image.Image, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels.save(tmp_path / "x.png")
    monkeypatch.setattr(image_info, "PROGRESS_DELAY", 0.0)
    list(read_image_infos(tmp_path, ["x.png"] * 3, "header"))
    shown = capsys.readouterr().err
    assert re.search(r"reading image headers: 100%\|.*\| 3/3 \[\d+:\d+<\d+:\d+, +[\d.]+image/s\]", shown), shown


def test_order_is_kept(tmp_path: Path, pixels: Image.Image) -> None:
    for width in range(10, 40):
        pixels.crop((0, 0, width, 20)).save(tmp_path / f"{width}.png")
    files = [f"{width}.png" for width in range(10, 40)]
    for mode in ("decode", "header"):
        result = list(read_image_infos(tmp_path, files, mode))
        assert [item.width for item in result if isinstance(item, ImageInfo)] == list(range(10, 40))
