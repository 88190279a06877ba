"""Boxes on pictures, and pictures on sheets. The font comes with matplotlib: nothing of the system is needed."""

import colorsys
import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from pipeline.errors import PipelineError

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
Font = ImageFont.FreeTypeFont

READABLE = 480  # pixels: an image whose longer side is shorter is enlarged, else its labels would cover it
PAPER: Color = (250, 250, 250)
INK: Color = (30, 30, 30)

# Trubetskoy's distinct colors, those that show on photographs: https://sashamaps.net/docs/resources/20-colors/
_DISTINCT: tuple[Color, ...] = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230),
    (210, 245, 60), (0, 128, 128), (255, 225, 25), (170, 110, 40), (250, 190, 212), (128, 0, 0), (170, 255, 195),
    (128, 128, 0), (0, 0, 128), (220, 190, 255),
)  # fmt: skip


def class_color(label: int) -> Color:
    """The color of a class by its training label: always the same, and unlike its neighbors'."""
    if label < len(_DISTINCT):
        return _DISTINCT[label]
    # Steps of the golden ratio never come round to a hue again.
    hue = label * 0.618033988749895 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.95, 0.6, 0.75)[label % 3], (0.95, 0.7)[label % 2])
    return round(red * 255), round(green * 255), round(blue * 255)


def object_color(index: int) -> Color:
    """A color for the index-th object of an image, of its own, and bright: it shows on a darkened image."""
    bright = [color for color in _DISTINCT if max(color) >= 230]
    if index < len(bright):
        return bright[index]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618033988749895 % 1, (0.75, 0.45)[index % 2], 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


@cache
def font_of(size: float) -> Font:
    """DejaVu Sans, which has Latin, Greek and Cyrillic letters: Pillow's own font lacks even dashes."""
    package = importlib.util.find_spec("matplotlib")  # found, not imported: only the file is wanted
    if package is None or package.origin is None:
        raise PipelineError("matplotlib: not installed, and its font labels the pictures; `pip install matplotlib`")
    return ImageFont.truetype(Path(package.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf", size)


def draw(
    image: Image.Image,
    boxes: Sequence[Box],
    labels: Sequence[str],
    colors: Sequence[Color],
    scores: Sequence[float] | None = None,
) -> Image.Image:
    """A copy of the image, in RGB, with labeled boxes; a small image is enlarged so that labels can be read.

    Line width and text follow the image's size. A label stands on a filled tag above its box, or inside it
    where there is no room above, and never leaves the image. With scores, the best box is drawn last, on top.

    Raises:
        ValueError: not as many labels, colors or scores as boxes.
    """
    factor = max(1, math.ceil(READABLE / max(image.size)))
    size = (image.width * factor, image.height * factor)
    canvas = image.convert("RGB").resize(size, Image.Resampling.BICUBIC) if factor > 1 else image.convert("RGB")
    marks = list(zip(boxes, labels, colors, scores or [0.0] * len(boxes), strict=True))
    pen, span = ImageDraw.Draw(canvas), max(canvas.size)
    font, width = font_of(max(12, span / 36)), max(2, round(span / 300))
    scaled = [
        (_inside(box, factor, size), f"{label} {score:.2f}" if scores else label, color)
        for box, label, color, score in sorted(marks, key=lambda mark: mark[3])
    ]
    for box, _, color in scaled:
        pen.rectangle(box, outline=color, width=width)
    for box, text, color in scaled:  # after all boxes: no line crosses a label
        if text:
            _tag(pen, box, text, color, font, size)
    return canvas


def _inside(box: Box, factor: int, size: tuple[int, int]) -> Box:
    """A box in canvas pixels; at least one pixel of it is in the picture."""
    x1, y1, x2, y2 = (value * factor for value in box)
    left, right = sorted((min(max(x1, 0), size[0] - 1), min(max(x2 - 1, 0), size[0] - 1)))
    top, bottom = sorted((min(max(y1, 0), size[1] - 1), min(max(y2 - 1, 0), size[1] - 1)))
    return left, top, right, bottom


def _tag(pen: ImageDraw.ImageDraw, box: Box, text: str, color: Color, font: Font, size: tuple[int, int]) -> None:
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin = max(1, (bottom - top) / 5)
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else min(box[1], size[1] - height)
    y = max(0, y)
    pen.rectangle((x, y, x + width, y + height), fill=color)
    pen.text((x + margin - left, y + margin - top), text, fill=ink_on(color), font=font)


def ink_on(color: Color) -> Color:
    """Black or white, whichever can be read on the color (ITU-R BT.601 luma)."""
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def contact_sheet(
    tiles: Sequence[tuple[Image.Image, str]], columns: int, tile_size: int, *, title: str = ""
) -> Image.Image:
    """Pictures side by side in rows, each shrunk or enlarged to fit a square of `tile_size` pixels, its caption below.

    A row is as high as its highest picture. A caption that is too long is cut. The title stands on top.

    Raises:
        ValueError: there are no tiles.
    """
    if not tiles:
        raise ValueError("a contact sheet needs a picture at least")
    columns = max(1, min(columns, len(tiles)))
    pictures = [(_fit(picture, tile_size), caption) for picture, caption in tiles]
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    font, gap = font_of(max(12, tile_size / 30)), max(4, tile_size // 40)
    line = round(font.size * 1.5)
    heights = [max(picture.height for picture, _ in row) + line + gap for row in rows]
    head = 2 * line if title else gap
    sheet = Image.new("RGB", (columns * (tile_size + gap) + gap, head + sum(heights) + gap), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((gap, line / 2), _cut(title, font, sheet.width - 2 * gap), fill=INK, font=font)
    for number, row in enumerate(rows):
        y = head + sum(heights[:number])
        for column, (picture, caption) in enumerate(row):
            x = gap + column * (tile_size + gap)
            sheet.paste(picture, (x + (tile_size - picture.width) // 2, y))
            pen.text((x, y + picture.height + line / 6), _cut(caption, font, tile_size), fill=INK, font=font)
    return sheet


def _fit(picture: Image.Image, tile_size: int) -> Image.Image:
    factor = tile_size / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _cut(text: str, font: Font, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@dataclass(frozen=True)
class Dot:
    """A filled circle, in pixels of the picture it is drawn on."""

    x: float
    y: float
    radius: float
    color: Color
    opacity: float = 1.0


@dataclass(frozen=True)
class Panel:
    """A picture of a sheet, with a heading and a sentence below."""

    picture: Image.Image
    heading: str
    text: str = ""


def muted(image: Image.Image) -> Image.Image:
    """A copy in RGB, grayer, darker and of less contrast, for bright marks to stand out."""
    gray = ImageEnhance.Color(image.convert("RGB")).enhance(0.25)
    return Image.blend(Image.new("RGB", image.size, (60, 60, 60)), gray, 0.5).point(lambda value: round(value * 0.8))


def dots(image: Image.Image, marks: Sequence[Dot]) -> Image.Image:
    """A copy in RGB with smooth dots; one of three pixels' radius or more has a dark rim."""
    fine = 3  # drawn so many times as large, then shrunk: Pillow's circles have jagged edges
    layer = Image.new("RGBA", (image.width * fine, image.height * fine))
    pen = ImageDraw.Draw(layer)
    for mark in marks:
        x, y, radius = mark.x * fine, mark.y * fine, mark.radius * fine
        fill = *mark.color, round(mark.opacity * 255)
        rim = fine if mark.radius >= 3 else 0
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill, outline=(0, 0, 0, 255), width=rim)
    small = layer.resize(image.size, Image.Resampling.BOX)
    return Image.alpha_composite(image.convert("RGBA"), small).convert("RGB")


def frame(
    image: Image.Image, box: Box, color: Color, *, width: int = 3, dashed: bool = False, crossed: bool = False
) -> None:
    """Draws a box onto the image, dashed or with its diagonals where asked."""
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = _inside(box, 1, image.size)
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


def tag(image: Image.Image, at: tuple[float, float], text: str, color: Color, size: float) -> None:
    """Writes text on a filled tag onto the image, its lower left corner at x, y where there is room."""
    _tag(ImageDraw.Draw(image), (*at, *at), text, color, font_of(size), image.size)


# Matplotlib's inferno at seven even steps (CC0): as bright as the value is high, also in gray and to the color-blind.
_INFERNO = np.array(
    [(0, 0, 4), (51, 10, 95), (120, 28, 109), (187, 55, 84), (237, 105, 37), (252, 181, 25), (252, 255, 164)], float
)


def heat(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Colors [..., 3] in 0…255 of values [...] in 0…1: from black by red to light yellow."""
    steps = np.linspace(0, 1, len(_INFERNO))
    return np.stack([np.interp(values, steps, channel) for channel in _INFERNO.T], axis=-1)


def heated(image: Image.Image, values: NDArray[np.floating], place: Box) -> Image.Image:
    """A copy of the image in gray, with a map's cells over it: the higher a value, the less of the image shows.

    Args:
        values: [h, w] in 0…1.
        place: where the map lies in the image's pixels; what is beyond the image is cut.
    """
    left, top, right, bottom = place
    ys = ((np.arange(image.height) + 0.5 - top) / (bottom - top) * values.shape[0]).astype(int)
    xs = ((np.arange(image.width) + 0.5 - left) / (right - left) * values.shape[1]).astype(int)
    seen = values[ys.clip(0, values.shape[0] - 1)[:, None], xs.clip(0, values.shape[1] - 1)]
    opacity = (0.4 + 0.6 * np.sqrt(seen))[..., None]
    gray = np.asarray(muted(image).convert("L"), float)[..., None]
    return Image.fromarray((gray * (1 - opacity) + heat(seen) * opacity).round().astype(np.uint8))


def heat_bar(width: int, height: int) -> Image.Image:
    """The colors of 0 to 1 from left to right."""
    row = heat(np.linspace(0, 1, width)).round().astype(np.uint8)
    return Image.fromarray(np.repeat(row[None], height, axis=0))


def panel_sheet(rows: Sequence[Sequence[Panel]], *, title: str, legend: Image.Image, text: float = 20) -> Image.Image:
    """Panels in rows, pictures at their own size, heading and text below each; the title above, the legend at the end.

    Args:
        text: size of the letters in pixels.
    """
    gap = round(text * 1.2)
    columns = max(len(row) for row in rows)
    wide = max(panel.picture.width for row in rows for panel in row)
    blocks = [[_panel(panel, wide, text) for panel in row] for row in rows]
    heights = [max(block.height for block in row) for row in blocks]
    width = max(columns * (wide + gap) + gap, legend.width + 2 * gap)
    head = round(text * 3)
    sheet = Image.new("RGB", (width, head + sum(heights) + len(rows) * gap + legend.height + gap), PAPER)
    font = font_of(text * 1.35)
    ImageDraw.Draw(sheet).text((gap, text * 0.8), _cut(title, font, width - 2 * gap), fill=INK, font=font)
    y = head
    for row, height in zip(blocks, heights, strict=True):
        for column, block in enumerate(row):
            sheet.paste(block, (gap + column * (wide + gap), y))
        y += height + gap
    sheet.paste(legend, (gap, y))
    return sheet


def _panel(panel: Panel, width: int, text: float) -> Image.Image:
    head, font = font_of(text * 1.1), font_of(text)
    lines = [(line, head, INK) for line in wrapped(panel.heading, head, width)]
    lines += [(line, font, (90, 90, 90)) for line in wrapped(panel.text, font, width)]
    step = round(text * 1.4)
    block = Image.new("RGB", (width, panel.picture.height + round(text * 0.5) + step * len(lines)), PAPER)
    block.paste(panel.picture, (0, 0))
    pen = ImageDraw.Draw(block)
    for number, (line, face, ink) in enumerate(lines):
        pen.text((0, panel.picture.height + round(text * 0.4) + number * step), line, fill=ink, font=face)
    return block


def wrapped(text: str, font: Font, width: int) -> list[str]:
    """Text in lines of at most this width in pixels; a word that is longer alone has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
