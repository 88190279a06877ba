"""Images with more than eight bits per channel: every kind of file shows the picture that it holds."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import tifffile
from numpy.typing import NDArray

from pipeline.data.deep_images import Range, to_eight_bits
from pipeline.data.image_files import open_image_file
from pipeline.data.images import read_image
from pipeline.errors import PipelineError

# A picture with values from 0 to 1, as gray and as three different channels.
ROWS, COLUMNS = np.mgrid[0:20, 0:30]
GRAY = (ROWS / 19 + COLUMNS / 29) / 2
RGB = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], axis=-1)
STRETCHED = "the smallest to the largest in the file"

Values = NDArray[Any]


def tiff(values: Values, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **options)
    return buffer.getvalue()


def tag(number: int, value: float, kind: str = "H") -> tuple[int, str, int, float, bool]:
    return number, kind, 1, value, True


def png(values: Values, *chunks: tuple[bytes, bytes]) -> bytes:
    """16 bits per channel: gray, gray with alpha, RGB or RGBA."""
    height, width, channels = values.reshape(*values.shape[:2], -1).shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.astype(">u2").tobytes() for row in values))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    checked = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(checked)


def scaled(full_scale: float, picture: Values = GRAY, dtype: type = np.uint16) -> Values:
    values = picture * full_scale
    return (values if np.dtype(dtype).kind == "f" else values.round()).astype(dtype)


def opaque(values: Values) -> Values:
    return np.dstack([values, np.full(values.shape[:2], 65535, np.uint16)])


with_nan = scaled(1, dtype=np.float32)
with_nan[0, 0], with_nan[-1, -1] = np.nan, np.inf  # where the picture is black and white
with_nodata = scaled(1, dtype=np.float32)
with_nodata[0, 0] = -9999
half = scaled(2047)  # a picture of half the brightness that 12 bits can hold

FULL: list[tuple[str, bytes, Values, str]] = [
    *[(f"{bits} of 16 bits.png", png(scaled(2**bits - 1)), GRAY, f"0…{2**bits - 1}") for bits in (8, 10, 12, 14, 16)],
    *[(f"{bits} of 16 bits.tif", tiff(scaled(2**bits - 1)), GRAY, f"0…{2**bits - 1}") for bits in (8, 10, 12, 14, 16)],
    ("big-endian.tif", tiff(scaled(4095), byteorder=">"), GRAY, "0…4095"),
    ("with alpha.png", png(opaque(scaled(4095))), GRAY, "0…4095"),
    ("rgb.png", png(scaled(4095, RGB)), RGB, "0…4095"),
    ("rgba.png", png(opaque(scaled(4095, RGB))), RGB, "0…4095"),
    ("rgb.tif", tiff(scaled(4095, RGB), photometric="rgb"), RGB, "0…4095"),
    ("compressed rgb.tif", tiff(scaled(4095, RGB), photometric="rgb", compression="zlib"), RGB, "0…4095"),
    ("full rgb.tif", tiff(scaled(65535, RGB), photometric="rgb"), RGB, "0…65535"),
    ("inverted.tif", tiff(4095 - scaled(4095), photometric="miniswhite"), GRAY, "0…4095"),
    ("float 0…1.tif", tiff(scaled(1, dtype=np.float32)), GRAY, "0…1"),
    ("float 0…255.tif", tiff(scaled(255, dtype=np.float32)), GRAY, "0…255"),
    ("float 0…65535.tif", tiff(scaled(65535, dtype=np.float32)), GRAY, "0…65535"),
    ("float 0…1.02.tif", tiff(scaled(1.02, dtype=np.float32)), GRAY, STRETCHED),
    ("float 0…0.001.tif", tiff(scaled(0.001, dtype=np.float32)), GRAY, STRETCHED),
    ("float −1…1.tif", tiff(scaled(2, dtype=np.float32) - 1), GRAY, STRETCHED),
    ("float with NaN.tif", tiff(with_nan), GRAY, "0…1"),
    ("float with nodata.tif", tiff(with_nodata, extratags=[(42113, "s", 0, "-9999", True)]), GRAY, "0…1"),
    ("float64.tif", tiff(scaled(1, dtype=np.float64)), GRAY, "0…1"),
    ("float rgb.tif", tiff(scaled(1, RGB, np.float32), photometric="rgb"), RGB, "0…1"),
    ("float.pgm", b"Pf\n30 20\n-1.0\n" + scaled(1, dtype=np.float32)[::-1].tobytes(), GRAY, "0…1"),
    ("int8.tif", tiff((scaled(255, dtype=np.int16) - 128).astype(np.int8)), GRAY, STRETCHED),
    ("int16 from −1024.tif", tiff(scaled(4095, dtype=np.int16) - 1024), GRAY, STRETCHED),
    ("int16.tif", tiff(scaled(4095, dtype=np.int16)), GRAY, "0…4095"),
    ("int32.tif", tiff(scaled(2**20, dtype=np.int32)), GRAY, STRETCHED),
    ("uint32.tif", tiff(scaled(2**32 - 1, dtype=np.uint32)), GRAY, STRETCHED),
    ("12 of 32 bits.tif", tiff(scaled(4095, dtype=np.uint32)), GRAY, "0…4095"),
    ("thermal.tif", tiff(scaled(3000) + 20000), GRAY, STRETCHED),
    ("MaxSampleValue.tif", tiff(half, extratags=[tag(281, 4095)]), GRAY / 2, "0…4095"),
    ("MinSampleValue.tif", tiff(scaled(3000) + 1000, extratags=[tag(280, 1000), tag(281, 4000)]), GRAY, "1000…4000"),
    ("SMaxSampleValue.tif", tiff(scaled(0.5, dtype=np.float32), extratags=[tag(341, 1.0, "f")]), GRAY / 2, "0…1"),
    ("wrong MaxSampleValue.tif", tiff(scaled(4095), extratags=[tag(281, 255)]), GRAY, "0…4095"),
    ("sBIT.png", png(half << 4, (b"sBIT", b"\x0c")), GRAY / 2, "0…65535"),
    ("sBIT right-aligned.png", png(half, (b"sBIT", b"\x0c")), GRAY / 2, "0…4095"),
    ("maxval.pgm", b"P5 30 20 4095\n" + half.astype(">u2").tobytes(), GRAY / 2, "0…4095"),
    ("12 of 16 bits.pgm", b"P5 30 20 65535\n" + scaled(4095).astype(">u2").tobytes(), GRAY, "0…4095"),
    ("12 of 16 bits.ppm", b"P6 30 20 65535\n" + scaled(4095, RGB).astype(">u2").tobytes(), RGB, "0…4095"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "picture", "description"), FULL, ids=[case[0] for case in FULL])
def test_every_kind_of_file_shows_its_picture(
    tmp_path: Path, name: str, content: bytes, picture: Values, description: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    pixels = read_image(path).permute(1, 2, 0).numpy()
    expected = picture if picture.ndim == 3 else np.repeat(picture[..., None], 3, axis=2)
    assert np.abs(pixels / 255 - expected).max() < 0.005  # of a rounding, or of the upper eight bits
    with open_image_file(path) as image:
        deep = image.read_deep()
    assert deep is not None
    assert deep.description == description
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("values", [np.full((2, 2), 20000), np.array([[20000, 20020], [20010, 20001]])])
def test_flat_images_are_not_stretched(values: Values) -> None:
    converted = to_eight_bits(values.astype(np.uint16))
    assert (set(converted.pixels.ravel().tolist()), converted.description) == ({78}, "0…65535")


@pytest.mark.parametrize("value", [0, np.nan, np.inf, -np.inf])
def test_images_without_a_finite_range_are_read(value: float) -> None:
    pixels = to_eight_bits(np.full((2, 3), value, np.float32)).pixels
    assert pixels.tolist() == [[255 if value == np.inf else 0] * 3] * 2


def test_the_upper_eight_bits_and_the_rounding() -> None:
    assert to_eight_bits(np.array([[0, 15, 16, 4095]], np.uint16)).pixels.tolist() == [[0, 0, 1, 255]]
    assert to_eight_bits(np.array([[0, 0.5, 1]])).pixels.tolist() == [[0, 128, 255]]
    assert to_eight_bits(np.array([[5, 10, 15]]), Range(0, 20)).pixels.tolist() == [[64, 128, 191]]


def test_large_images_are_converted_in_parts() -> None:
    values = np.arange(3 * 2**20).reshape(3 * 2**10, 2**10) % 4096
    assert np.array_equal(to_eight_bits(values.astype(np.uint16)).pixels, values >> 4)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiff(scaled(4095, RGB), photometric="rgb")[:-100], "truncated"),
        (png(scaled(4095, RGB))[:-100], "truncated"),
        (tiff(scaled(1, dtype=np.float64))[:-100], "damaged, or of a kind that can't be read"),
        (tiff(scaled(1, dtype=np.float16)), "save it as gray or RGB of 8 or 16 bits per channel"),
        (
            tiff(scaled(9, np.dstack([RGB, RGB])[..., :5]), photometric="minisblack", planarconfig="contig"),
            "save it as",
        ),
        (tiff(scaled(9, RGB).transpose(2, 0, 1), photometric="rgb", planarconfig="separate"), "contiguous channels"),
    ],
)
def test_what_cant_be_read_is_an_error(
    tmp_path: Path, content: bytes, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(PipelineError, match=f"x.png: can't be decoded as an image: .*{said}"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_a_jpeg_of_12_bits_says_what_to_do(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    PIL.Image.fromarray(scaled(255, dtype=np.uint8)).save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    content[content.index(b"\xff\xc0") + 4] = 12
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(PipelineError, match="a 12-bit JPEG, which can't be read: save it as PNG or TIFF with 16 bits"):
        read_image(tmp_path / "x.jpg")


def test_opencv_reads_what_was_written(tmp_path: Path) -> None:
    """The order of its channels, compared with Pillow's."""
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), scaled(65535, RGB)[..., ::-1])
    with PIL.Image.open(path) as image:
        assert np.array_equal(read_image(path).permute(1, 2, 0).numpy(), np.asarray(image))
