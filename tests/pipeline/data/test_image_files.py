"""The limit on pixels, read from the header of every format before anything is decoded."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile

from pipeline.data.image_files import PixelLimit
from pipeline.data.images import read_image
from pipeline.errors import PipelineError

SUFFIXES = ("jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "jp2", "avif", "tga", "dib")


def encoded(suffix: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, size).save(buffer, PIL.Image.registered_extensions()[f".{suffix}"], **options)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_limit_counts_for_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(encoded(suffix))
    message = (
        "a.*: 40×30 is 0.0 megapixels, more than the limit of 0.0011: cut the image into tiles, or raise the limit: "
        "--limit 1$"
    )
    with pytest.raises(PipelineError, match=message):
        read_image(path, limit=PixelLimit(0.0011, "--limit "))
    assert read_image(path, limit=PixelLimit(0.0012)).shape == (3, 30, 40)


def with_size(suffix: str, old: bytes, new: bytes, **options: Any) -> bytes:
    """A small file whose header states another size: what a decompression bomb looks like from outside."""
    content = encoded(suffix, **options)
    assert old in content
    return content.replace(old, new, 1)


# The headers that state 40 × 30, and what they state instead.
BOMBS = {
    "jpg": with_size("jpg", b"\x00\x1e\x00\x28", b"\x75\x30\x75\x30"),
    "progressive.jpg": with_size("jpg", b"\x00\x1e\x00\x28", b"\x75\x30\x75\x30", progressive=True),
    "gif": with_size("gif", b"\x28\x00\x1e\x00", b"\x30\x75\x30\x75"),
    "bmp": with_size("bmp", b"\x28\x00\x00\x00\x1e\x00\x00\x00", b"\x30\x75\x00\x00\x30\x75\x00\x00"),
    "ppm": with_size("ppm", b"40 30", b"30000 30000"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"a.{name}"
    path.write_bytes(BOMBS[name])
    with pytest.raises(PipelineError, match=r"30,000×30,000 is 900.0 megapixels, .*: -S convert.max_megapixels=900$"):
        read_image(path)
    with pytest.raises(PipelineError, match=r"has 30000×30000 pixels, but its annotations are for 40×30: run `dvc"):
        read_image(path, (40, 30))


def test_the_tiles_of_a_tiff_count(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((32, 32), np.uint8), tile=(16, 16))
    assert read_image(path).shape == (3, 32, 32)
    content = path.read_bytes()
    for tag in (322, 323):  # TileWidth, TileLength; an entry of the directory is tag, type, count, value
        entry = struct.pack("<HHI", tag, 4, 1)
        assert entry in content
        start = content.index(entry) + len(entry)
        content = content[:start] + struct.pack("<I", 40_000) + content[start + 4 :]
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=r"40,000×40,000 is 1,600\.0 megapixels"):
        read_image(path)


def test_no_program_is_run_to_decode_an_image(tmp_path: Path) -> None:
    """Pillow decodes EPS by Ghostscript, whatever the file's name."""
    (tmp_path / "a.png").write_bytes(encoded("eps"))
    with pytest.raises(PipelineError, match="unknown image format"):
        read_image(tmp_path / "a.png")


def test_a_long_file_around_a_small_picture_is_not_read_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("jpg"))
    with path.open("ab") as file:
        file.truncate(2**40)  # a sparse file: takes no room on the disk
    assert read_image(path).shape == (3, 30, 40)
