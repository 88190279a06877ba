"""Values from 0 to 1 as colors, and as an overlay on an image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.visualization.boxes import Box, subdued

# Matplotlib's inferno at seven even steps (CC0): brightness rises with the value, also in gray and for color-blind
# people.
_INFERNO = np.array(
    [(0, 0, 4), (51, 10, 95), (120, 28, 109), (187, 55, 84), (237, 105, 37), (252, 181, 25), (252, 255, 164)], float
)


def heat_color(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Converts values [...] in 0…1 to colors [..., 3] in 0…255, from black through red to light yellow."""
    steps = np.linspace(0, 1, len(_INFERNO))
    return np.stack([np.interp(values, steps, channel) for channel in _INFERNO.T], axis=-1)


def overlay_heat(image: Image.Image, values: NDArray[np.floating], area: Box) -> Image.Image:
    """Returns a gray copy of the image with the cells of a map over it. The higher a value, the more opaque its cell.

    Args:
        values: [h, w] in 0…1.
        area: the area that the map covers, in pixels of the image; parts outside the image are cut off.
    """
    left, top, right, bottom = area
    rows = ((np.arange(image.height) + 0.5 - top) / (bottom - top) * values.shape[0]).astype(int)
    columns = ((np.arange(image.width) + 0.5 - left) / (right - left) * values.shape[1]).astype(int)
    pixels = values[rows.clip(0, values.shape[0] - 1)[:, None], columns.clip(0, values.shape[1] - 1)]
    opacity = (0.4 + 0.6 * np.sqrt(pixels))[..., None]
    gray = np.asarray(subdued(image).convert("L"), float)[..., None]
    return Image.fromarray((gray * (1 - opacity) + heat_color(pixels) * opacity).round().astype(np.uint8))


def color_bar(width: int, height: int) -> Image.Image:
    """The colors of 0 to 1 from left to right."""
    row = heat_color(np.linspace(0, 1, width)).round().astype(np.uint8)
    return Image.fromarray(np.repeat(row[None], height, axis=0))
