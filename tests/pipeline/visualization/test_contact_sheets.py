"""Contact sheets, checked by their pixels."""

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.visualization.contact_sheets import contact_sheet


def positions(image: Pillow.Image, color: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    ys, xs = np.nonzero((np.asarray(image) == color).all(axis=-1))
    return xs, ys


def test_images_of_a_contact_sheet_have_the_right_positions() -> None:
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    tiles = [(Pillow.new("RGB", (80, 40), color), f"picture {number}") for number, color in enumerate(colors)]
    sheet = contact_sheet(tiles, 2, 100, title="All")
    places = [positions(sheet, color) for color in colors]
    assert [(xs.max() - xs.min() + 1, ys.max() - ys.min() + 1) for xs, ys in places] == [(100, 50)] * 3
    (x0, y0), (x1, y1), (x2, y2) = [(xs.min(), ys.min()) for xs, ys in places]
    assert y0 == y1 < y2
    assert x0 == x2 < x1
    below = np.asarray(sheet)[places[0][1].max() + 1 : y2, x0 : x0 + 100]
    assert (below.min(axis=-1) < 100).any()  # the caption


def test_a_sheet_with_fewer_images_than_columns_is_narrower() -> None:
    assert contact_sheet([(Pillow.new("L", (10, 10)), "one")], 6, 100).width < 120


def test_a_sheet_without_images_is_an_error() -> None:
    with pytest.raises(ValueError, match="image"):
        contact_sheet([], 3, 100)
