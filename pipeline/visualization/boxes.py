"""Boxes, tags and dots on images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from fcos.drawing import Box, Color, class_color, contrasting_color, label_position, object_color
from pipeline.visualization.fonts import Line, typeset

__all__ = ["Box", "Color", "class_color", "contrasting_color", "object_color"]  # beside what is defined here

BACKGROUND: Color = (250, 250, 250)
TEXT_COLOR: Color = (30, 30, 30)
_MIN_LONG_SIDE = 480  # pixels: `draw_boxes` enlarges smaller images, which labels would cover otherwise


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

    Line width and text size follow the image size. Each label stands on a filled tag, at a corner of its box where it
    hides no label of a higher score, and inside the image: see `label_position`. With scores, the box with the highest
    score is drawn last.

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
    tags: list[_Tag] = []
    for box, text, color in reversed(scaled):  # the best ones choose their places first
        if text:
            tags.append(_place_tag(box, text, color, font_size, size, [tag.box for tag in tags]))
    for tag in reversed(tags):  # after all boxes, so that no line crosses a label
        tag.draw(pen)
    return canvas


def _clipped(box: Box, factor: int, size: tuple[int, int]) -> Box:
    """A box in canvas pixels, clipped to the image; at least one pixel of it remains."""
    x1, y1, x2, y2 = (value * factor for value in box)
    left, right = sorted((min(max(x1, 0), size[0] - 1), min(max(x2 - 1, 0), size[0] - 1)))
    top, bottom = sorted((min(max(y1, 0), size[1] - 1), min(max(y2 - 1, 0), size[1] - 1)))
    return left, top, right, bottom


@dataclass(frozen=True)
class _Tag:
    """A line of text on a filled rectangle."""

    line: Line
    box: Box
    margin: float
    color: Color

    def draw(self, pen: ImageDraw.ImageDraw) -> None:
        x, y, _, _ = self.box
        pen.rectangle(self.box, fill=self.color)
        top, _ = self.line.extent
        self.line.draw(pen, x + self.margin, y + self.margin - top, contrasting_color(self.color))


def _place_tag(
    box: Box, text: str, color: Color, text_size: float, size: tuple[int, int], taken: Sequence[Box] = ()
) -> _Tag:
    line = typeset(text, text_size)
    top, bottom = line.extent
    margin = max(1, (bottom - top) / 5)
    width, height = line.width + 2 * margin, bottom - top + 2 * margin
    x, y = label_position(box, (width, height), size, taken)
    return _Tag(line, (x, y, x + width, y + height), margin, color)


def draw_tag(image: Image.Image, position: tuple[float, float], text: str, color: Color, size: float) -> None:
    """Draws text on a filled tag in place; the tag's lower left corner is at (x, y) if there is room above."""
    _place_tag((*position, *position), text, color, size, image.size).draw(ImageDraw.Draw(image))


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
