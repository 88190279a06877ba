"""Boxes annotated on a rotated image, compared with Pillow's rotation of the pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.conversion.exif import is_annotated_rotated, to_stored_pixels
from pipeline.conversion.image_info import ImageInfo, decode_image
from pipeline.formats.records import Box, RawImage, RawObject


def box_of(picture: Image.Image) -> Box:
    """The bounding box of the white pixels."""
    rows, columns = np.nonzero(np.asarray(picture.convert("L")) > 127)
    return (
        float(columns.min()),
        float(rows.min()),
        float(np.ptp(columns)) + 1,
        float(np.ptp(rows)) + 1,
    )


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_are_rotated_back_to_stored_pixels(tmp_path: Path, orientation: int) -> None:
    stored = Image.new("RGB", (80, 60))
    stored.paste((255, 255, 255), (7, 11, 40, 23))
    exif = Image.Exif()
    exif[274] = orientation
    stored.save(tmp_path / "x.png", exif=exif)
    info = decode_image(tmp_path / "x.png")
    assert isinstance(info, ImageInfo)
    assert (info.width, info.height, info.orientation) == (80, 60, orientation)
    with Image.open(tmp_path / "x.png") as opened:
        shown = ImageOps.exif_transpose(opened)
    record = RawImage("x", "x.png", declared_size=shown.size, objects=(RawObject("1", "cat", box_of(shown)),))
    assert is_annotated_rotated(record, info)
    back = to_stored_pixels(record, info)
    assert back.declared_size == (80, 60)
    assert back.objects[0].box == box_of(stored) == (7, 11, 33, 12)


def test_other_sizes_and_orientations_are_unchanged() -> None:
    for width, height, orientation, declared in (
        (80, 60, 6, (80, 60)),  # drawn on the stored pixels
        (80, 60, 1, (60, 80)),  # another size, and nothing that would turn it
        (80, 60, 3, (60, 80)),  # upside down: width and height stay
        (80, 60, 6, (61, 80)),
        (80, 60, 6, None),
        (80, 80, 6, (80, 80)),
    ):
        record = RawImage("x", "x.png", declared_size=declared)
        assert not is_annotated_rotated(record, ImageInfo(width, height, "", orientation))
