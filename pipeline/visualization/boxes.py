"""Boxes, tags and dots on images."""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from pipeline.visualization.fonts import typeset

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels

BACKGROUND: Color = (250, 250, 250)
TEXT_COLOR: Color = (30, 30, 30)
_MIN_LONG_SIDE = 480  # pixels: `draw_boxes` enlarges smaller images, which labels would cover otherwise
_GOLDEN_RATIO = 0.618033988749895  # hues at multiples of it never repeat

# Trubetskoy's distinct colors, without those that are hard to see on photographs:
# https://sashamaps.net/docs/resources/20-colors/
_DISTINCT_COLORS: tuple[Color, ...] = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230),
    (210, 245, 60), (0, 128, 128), (255, 225, 25), (170, 110, 40), (250, 190, 212), (128, 0, 0), (170, 255, 195),
    (128, 128, 0), (0, 0, 128), (220, 190, 255),
)  # fmt: skip


def class_color(label: int) -> Color:
    """The color of a class by its training label. It never changes, and neighboring labels get distinct colors."""
    if label < len(_DISTINCT_COLORS):
        return _DISTINCT_COLORS[label]
    return _from_hsv(label * _GOLDEN_RATIO % 1, (0.95, 0.6, 0.75)[label % 3], (0.95, 0.7)[label % 2])


def object_color(index: int) -> Color:
    """A distinct color for each object of an image, bright enough to show on a darkened image."""
    bright = [color for color in _DISTINCT_COLORS if max(color) >= 230]
    if index < len(bright):
        return bright[index]
    return _from_hsv(index * _GOLDEN_RATIO % 1, (0.75, 0.45)[index % 2], 1.0)


def _from_hsv(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[Box],
    labels: Sequence[str],
    colors: Sequence[Color],
    scores: Sequence[float] | None = None,
    *,
    enlarge: bool = True,
    text_size: float = 1 / 36,
) -> Image.Image:
    """Returns a copy of the image, in RGB, with labeled boxes.

    Small images are enlarged so that labels are readable, except with `enlarge=False`.

    Line width and text size follow the image size. Each label stands on a filled tag above its box, or inside the box
    if there is no room above, and stays inside the image. With scores, the box with the highest score is drawn last.

    Args:
        text_size: of labels, as a fraction of the image's longer side; at least 12 pixels.

    Raises:
        ValueError: the numbers of boxes, labels, colors and scores differ.
    """
    factor = max(1, math.ceil(_MIN_LONG_SIDE / max(image.size))) if enlarge else 1
    size = (image.width * factor, image.height * factor)
    canvas = image.convert("RGB").resize(size, Image.Resampling.BICUBIC) if factor > 1 else image.convert("RGB")
    items = list(zip(boxes, labels, colors, scores or [0.0] * len(boxes), strict=True))
    pen, long_side = ImageDraw.Draw(canvas), max(canvas.size)
    font_size, width = max(12, long_side * text_size), max(2, round(long_side / 300))
    scaled = [
        (_clipped(box, factor, size), f"{label} {score:.2f}" if scores else label, color)
        for box, label, color, score in sorted(items, key=lambda item: item[3])
    ]
    for box, _, color in scaled:
        pen.rectangle(box, outline=color, width=width)
    for box, text, color in scaled:  # after all boxes, so that no line crosses a label
        if text:
            _tag(pen, box, text, color, font_size, size)
    return canvas


def _clipped(box: Box, factor: int, size: tuple[int, int]) -> Box:
    """A box in canvas pixels, clipped to the image; at least one pixel of it remains."""
    x1, y1, x2, y2 = (value * factor for value in box)
    left, right = sorted((min(max(x1, 0), size[0] - 1), min(max(x2 - 1, 0), size[0] - 1)))
    top, bottom = sorted((min(max(y1, 0), size[1] - 1), min(max(y2 - 1, 0), size[1] - 1)))
    return left, top, right, bottom


def _tag(pen: ImageDraw.ImageDraw, box: Box, text: str, color: Color, text_size: float, size: tuple[int, int]) -> None:
    line = typeset(text, text_size)
    top, bottom = line.extent
    margin = max(1, (bottom - top) / 5)
    width, height = line.width + 2 * margin, bottom - top + 2 * margin
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else min(box[1], size[1] - height)
    y = max(0, y)
    pen.rectangle((x, y, x + width, y + height), fill=color)
    line.draw(pen, x + margin, y + margin - top, contrasting_color(color))


def contrasting_color(color: Color) -> Color:
    """Black or white, whichever is readable on the color (ITU-R BT.601 luma)."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def draw_tag(image: Image.Image, position: tuple[float, float], text: str, color: Color, size: float) -> None:
    """Draws text on a filled tag in place; the tag's lower left corner is at (x, y) if there is room above."""
    _tag(ImageDraw.Draw(image), (*position, *position), text, color, size, image.size)


def draw_outline(
    image: Image.Image, box: Box, color: Color, *, width: int = 3, dashed: bool = False, crossed: bool = False
) -> None:
    """Draws a box in place: solid or dashed, with its diagonals if `crossed`."""
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = _clipped(box, 1, image.size)
    if crossed:
        pen.line((left, top, right, bottom), fill=color, width=1)
        pen.line((left, bottom, right, top), fill=color, width=1)
    if not dashed:
        pen.rectangle((left, top, right, bottom), outline=color, width=width)
        return
    dash = 4 * width
    for start in np.arange(left, right, 2 * dash):
        for y in (top, bottom):
            pen.line((start, y, min(start + dash, right), y), fill=color, width=width)
    for start in np.arange(top, bottom, 2 * dash):
        for x in (left, right):
            pen.line((x, start, x, min(start + dash, bottom)), fill=color, width=width)


@dataclass(frozen=True)
class Dot:
    """A filled circle, in pixels of the image."""

    x: float
    y: float
    radius: float
    color: Color
    opacity: float = 1.0


def draw_dots(image: Image.Image, dots: Sequence[Dot]) -> Image.Image:
    """Returns a copy of the image, in RGB, with antialiased dots; dots of 3 pixels radius or more get a dark rim."""
    factor = 3  # dots are drawn enlarged, then shrunk: Pillow's circles have jagged edges
    layer = Image.new("RGBA", (image.width * factor, image.height * factor))
    pen = ImageDraw.Draw(layer)
    for dot in dots:
        x, y, radius = dot.x * factor, dot.y * factor, dot.radius * factor
        fill = *dot.color, round(dot.opacity * 255)
        rim = factor if dot.radius >= 3 else 0
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline=(0, 0, 0, 255), width=rim)
    shrunk = layer.resize(image.size, Image.Resampling.BOX)
    return Image.alpha_composite(image.convert("RGBA"), shrunk).convert("RGB")


def subdued(image: Image.Image) -> Image.Image:
    """Returns a copy of the image, in RGB, with less color, brightness and contrast, so that bright marks stand out."""
    gray = ImageEnhance.Color(image.convert("RGB")).enhance(0.25)
    return Image.blend(Image.new("RGB", image.size, (60, 60, 60)), gray, 0.5).point(lambda value: round(value * 0.8))
