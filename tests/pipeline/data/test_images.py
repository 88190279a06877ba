"""Every kind of file that the docstring of read_image lists, written by Pillow."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from pipeline.data.images import open_image, read_image
from pipeline.errors import PipelineError

Save = Callable[..., Path]


@pytest.fixture
def picture() -> PIL.Image.Image:
    """Smooth colors with a little noise, so that decoding errors change pixels."""
    rows, columns = np.mgrid[0:61, 0:83]
    noise = np.random.default_rng(0).integers(0, 24, (61, 83, 3))
    pixels = np.stack([rows * 3, columns * 2, rows + columns], axis=-1) + noise
    return PIL.Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(image: PIL.Image.Image, name: str, **options: Any) -> Path:
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def by_pillow(path: Path) -> torch.Tensor:
    with PIL.Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("mode", "name", "options"),
    [
        ("RGB", "a.jpg", {}),
        ("RGB", "a.jpg", {"subsampling": 0, "quality": 98}),
        ("RGB", "a.jpg", {"progressive": True}),
        ("RGB", "a.jpg", {"keep_rgb": True}),
        ("L", "a.jpg", {}),
        ("CMYK", "a.jpg", {}),
        ("RGB", "a.webp", {}),
        ("RGB", "a.webp", {"lossless": True}),
        ("RGBA", "a.webp", {"lossless": True}),
        ("RGB", "a.png", {}),
        ("RGBA", "a.png", {}),
        ("LA", "a.png", {}),
        ("L", "a.png", {}),
        ("P", "a.png", {}),
        ("P", "a.png", {"transparency": 3}),
        ("1", "a.png", {}),
        ("RGB", "a.png", {"icc_profile": b"not a profile"}),
        ("P", "a.gif", {}),
        ("RGB", "a.bmp", {}),
        ("RGB", "a.tif", {"compression": "tiff_lzw"}),
        ("CMYK", "a.tif", {}),
    ],
)
def test_pixels_equal_those_of_pillow_and_nothing_is_printed(
    picture: PIL.Image.Image, save: Save, capfd: pytest.CaptureFixture[str], mode: str, name: str, options: Any
) -> None:
    path = save(picture.convert(mode), name, **options)
    found = read_image(path)
    assert found.dtype == torch.uint8
    assert found.shape == (3, 61, 83)
    assert found.stride(0) == 1  # channels last: resizing is several times faster
    assert torch.equal(found, by_pillow(path))
    assert capfd.readouterr() == ("", "")


def test_transparency_is_ignored_and_colors_are_kept(picture: PIL.Image.Image, save: Save) -> None:
    ramp = PIL.Image.fromarray((np.arange(61 * 83) % 256).astype(np.uint8).reshape(61, 83))
    transparent = picture.copy()
    transparent.putalpha(ramp)
    expected = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert torch.equal(read_image(save(transparent, "a.png")), expected)
    assert torch.equal(read_image(save(transparent, "a.webp", lossless=True, exact=True)), expected)


@pytest.mark.parametrize("transform", [2, None], ids=["YCCK", "no Adobe marker"])
def test_cmyk_of_other_writers(picture: PIL.Image.Image, tmp_path: Path, transform: int | None) -> None:
    """Pillow writes CMYK only with Adobe's marker, so the file is edited."""
    buffer = io.BytesIO()
    picture.convert("CMYK").save(buffer, "JPEG")
    content = bytearray(buffer.getvalue())
    marker = content.index(b"Adobe") - 4
    if transform is None:
        del content[marker : marker + 2 + int.from_bytes(content[marker + 2 : marker + 4], "big")]
    else:
        content[marker + 15] = transform
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    assert torch.equal(read_image(path), by_pillow(path))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_exif_rotation_is_ignored(picture: PIL.Image.Image, save: Save, name: str) -> None:
    exif = PIL.Image.Exif()
    exif[0x112] = 6  # rotate by 90°
    assert torch.equal(read_image(save(picture, name, exif=exif)), read_image(save(picture, f"plain-{name}")))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bit_images_keep_their_upper_eight_bits(save: Save, name: str) -> None:
    deep = PIL.Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16))
    assert read_image(save(deep, name)).tolist() == [[[0, 0, 1, 128, 255]]] * 3


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_the_first_of_several_images_is_read(picture: PIL.Image.Image, save: Save, name: str) -> None:
    other = picture.transpose(PIL.Image.Transpose.ROTATE_180)
    path = save(picture, name, save_all=True, append_images=[other], **({"lossless": True} if "webp" in name else {}))
    found = read_image(path)
    assert torch.equal(found, by_pillow(path))
    if name != "a.gif":  # GIF has only 256 colors
        assert torch.equal(found, torch.from_numpy(np.array(picture)).permute(2, 0, 1))


@pytest.mark.parametrize("name", ["a.jpg", "progressive.jpg", "a.webp", "a.png", "a.gif", "a.bmp", "a.tif"])
@pytest.mark.parametrize("kept", [0.0, 0.05, 0.5, 0.97])
def test_a_truncated_file_is_a_one_line_error(
    picture: PIL.Image.Image, save: Save, capfd: pytest.CaptureFixture[str], name: str, kept: float
) -> None:
    path = save(picture, name, **({"progressive": True} if name == "progressive.jpg" else {}))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(PipelineError, match=f"{name}: can't be decoded as an image: ") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    assert "BytesIO" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_corrupt_jpeg_data_gives_the_pixels_of_pillow(picture: PIL.Image.Image, save: Save) -> None:
    path = save(picture, "a.jpg")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 + 200
    content[middle : middle + 20] = b"\x5a" * 20
    path.write_bytes(content)
    assert torch.equal(read_image(path), by_pillow(path))


def test_a_missing_file_and_other_content_are_errors(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"none\.jpg: no such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(PipelineError, match="can't be decoded as an image: "):
        read_image(tmp_path)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(PipelineError, match=r"text\.jpg: can't be decoded as an image: unknown image format"):
        read_image(tmp_path / "text.jpg")


def test_open_image_has_the_pixels_of_read_image(picture: PIL.Image.Image, save: Save) -> None:
    path = save(picture, "a.jpg")
    image = open_image(path)
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), read_image(path).permute(1, 2, 0).numpy())
