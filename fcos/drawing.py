"""What all pictures of detections share: the colors of classes, and places for labels where they hide no other one."""

import colorsys
from collections.abc import Sequence

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

_GOLDEN_RATIO = 0.618033988749895  # hues at multiples of it never repeat

# Trubetskoy's distinct colors, without those that are hard to see on photographs:
# https://sashamaps.net/docs/resources/20-colors/
DISTINCT_COLORS: tuple[Color, ...] = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230),
    (210, 245, 60), (0, 128, 128), (255, 225, 25), (170, 110, 40), (250, 190, 212), (128, 0, 0), (170, 255, 195),
    (128, 128, 0), (0, 0, 128), (220, 190, 255),
)  # fmt: skip


def class_color(label: int) -> Color:
    """The color of a class by its training label. It never changes, and neighboring labels get distinct colors."""
    if label < len(DISTINCT_COLORS):
        return DISTINCT_COLORS[label]
    return color_from_hsv(label * _GOLDEN_RATIO % 1, (0.95, 0.6, 0.75)[label % 3], (0.95, 0.7)[label % 2])


def object_color(index: int) -> Color:
    """A distinct color for each object of an image, bright enough to show on a darkened image."""
    bright = [color for color in DISTINCT_COLORS if max(color) >= 230]
    if index < len(bright):
        return bright[index]
    return color_from_hsv(index * _GOLDEN_RATIO % 1, (0.75, 0.45)[index % 2], 1.0)


def color_from_hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def contrasting_color(color: Color) -> Color:
    """Black or white, whichever is readable on the color (ITU-R BT.601 luma)."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def label_position(
    box: Box, label: tuple[float, float], image: tuple[int, int], taken: Sequence[Box] = ()
) -> tuple[float, float]:
    """The upper left corner of a box's label, in pixels.

    It is above the box if there is room, or else inside it; and where it would cover another label, at another of the
    box's corners. If no corner is free, it is above the box all the same.

    Args:
        box: inside the image.
        label, image: width and height.
        taken: where other labels are.
    """
    x1, y1, x2, y2 = box
    (width, height), (right, bottom) = label, (image[0] - label[0], image[1] - label[1])
    rows = [y for y in (y1 - height, y1, y2, y2 - height) if 0 <= y <= bottom] or [max(0.0, min(y1, bottom))]
    places = [(max(0.0, min(x, right)), y) for x in (x1, x2 - width) for y in rows]
    return next((place for place in places if not _covers(place, label, taken)), places[0])


def _covers(place: tuple[float, float], label: tuple[float, float], taken: Sequence[Box]) -> bool:
    (x, y), (width, height) = place, label
    return any(x < x2 and x1 < x + width and y < y2 and y1 < y + height for x1, y1, x2, y2 in taken)
