"""Boxes on pictures, and pictures on sheets. The font comes with matplotlib: nothing of the system is needed."""

import colorsys
import importlib.util
import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from pipeline.errors import PipelineError

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
Font = ImageFont.FreeTypeFont

READABLE = 480  # pixels: an image whose longer side is shorter is enlarged, else its labels would cover it
PAPER: Colour = (250, 250, 250)
INK: Colour = (30, 30, 30)

# Trubetskoy's distinct colours, those that show on photographs: https://sashamaps.net/docs/resources/20-colors/
_DISTINCT: tuple[Colour, ...] = (
    (230, 25, 75), (60, 180, 75), (0, 130, 200), (245, 130, 48), (145, 30, 180), (70, 240, 240), (240, 50, 230),
    (210, 245, 60), (0, 128, 128), (255, 225, 25), (170, 110, 40), (250, 190, 212), (128, 0, 0), (170, 255, 195),
    (128, 128, 0), (0, 0, 128), (220, 190, 255),
)  # fmt: skip


def class_colour(label: int) -> Colour:
    """The colour of a class by its training label: always the same, and unlike its neighbours'."""
    if label < len(_DISTINCT):
        return _DISTINCT[label]
    # Steps of the golden ratio never come round to a hue again.
    hue = label * 0.618033988749895 % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, (0.95, 0.6, 0.75)[label % 3], (0.95, 0.7)[label % 2])
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
    colours: Sequence[Colour],
    scores: Sequence[float] | None = None,
) -> Image.Image:
    """A copy of the image, in RGB, with labelled boxes; a small image is enlarged so that labels can be read.

    Line width and text follow the image's size. A label stands on a filled tag above its box, or inside it
    where there is no room above, and never leaves the image. With scores, the best box is drawn last, on top.

    Raises:
        ValueError: not as many labels, colours or scores as boxes.
    """
    factor = max(1, math.ceil(READABLE / max(image.size)))
    size = (image.width * factor, image.height * factor)
    canvas = image.convert("RGB").resize(size, Image.Resampling.BICUBIC) if factor > 1 else image.convert("RGB")
    marks = list(zip(boxes, labels, colours, scores or [0.0] * len(boxes), strict=True))
    pen, span = ImageDraw.Draw(canvas), max(canvas.size)
    font, width = font_of(max(12, span / 36)), max(2, round(span / 300))
    scaled = [
        (_inside(box, factor, size), f"{label} {score:.2f}" if scores else label, colour)
        for box, label, colour, score in sorted(marks, key=lambda mark: mark[3])
    ]
    for box, _, colour in scaled:
        pen.rectangle(box, outline=colour, width=width)
    for box, text, colour in scaled:  # after all boxes: no line crosses a label
        if text:
            _tag(pen, box, text, colour, font, size)
    return canvas


def _inside(box: Box, factor: int, size: tuple[int, int]) -> Box:
    """A box in canvas pixels; at least one pixel of it is in the picture."""
    x1, y1, x2, y2 = (value * factor for value in box)
    left, right = sorted((min(max(x1, 0), size[0] - 1), min(max(x2 - 1, 0), size[0] - 1)))
    top, bottom = sorted((min(max(y1, 0), size[1] - 1), min(max(y2 - 1, 0), size[1] - 1)))
    return left, top, right, bottom


def _tag(pen: ImageDraw.ImageDraw, box: Box, text: str, colour: Colour, font: Font, size: tuple[int, int]) -> None:
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    margin = max(1, (bottom - top) / 5)
    width, height = right - left + 2 * margin, bottom - top + 2 * margin
    x = max(0, min(box[0], size[0] - width))
    y = box[1] - height if box[1] >= height else min(box[1], size[1] - height)
    y = max(0, y)
    pen.rectangle((x, y, x + width, y + height), fill=colour)
    pen.text((x + margin - left, y + margin - top), text, fill=ink_on(colour), font=font)


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever can be read on the colour (ITU-R BT.601 luma)."""
    red, green, blue = colour
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
