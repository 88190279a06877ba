"""Sheets of several images: thumbnails with captions, or panels with headings and a legend."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pipeline.visualization.boxes import BACKGROUND, TEXT_COLOR, Color
from pipeline.visualization.fonts import Line, typeset

_SECONDARY_TEXT_COLOR: Color = (90, 90, 90)


def contact_sheet(
    tiles: Sequence[tuple[Image.Image, str]], columns: int, tile_size: int, *, title: str = ""
) -> Image.Image:
    """Images in rows, each resized to fit a square of `tile_size` pixels, with its caption below; the title on top.

    A row is as high as its highest image. Captions that are too long are truncated.

    Raises:
        ValueError: there are no tiles.
    """
    if not tiles:
        raise ValueError("a contact sheet needs at least one image")
    columns = max(1, min(columns, len(tiles)))
    resized = [(_resized(image, tile_size), caption) for image, caption in tiles]
    rows = [resized[start : start + columns] for start in range(0, len(resized), columns)]
    text_size, gap = max(12, tile_size / 30), max(4, tile_size // 40)
    line = round(text_size * 1.5)
    heights = [max(image.height for image, _ in row) + line + gap for row in rows]
    head = 2 * line if title else gap
    sheet = Image.new("RGB", (columns * (tile_size + gap) + gap, head + sum(heights) + gap), BACKGROUND)
    pen = ImageDraw.Draw(sheet)
    _truncated(title, text_size, sheet.width - 2 * gap).draw(pen, gap, line / 2 + text_size, TEXT_COLOR)
    for number, row in enumerate(rows):
        y = head + sum(heights[:number])
        for column, (image, caption) in enumerate(row):
            x = gap + column * (tile_size + gap)
            sheet.paste(image, (x + (tile_size - image.width) // 2, y))
            baseline = y + image.height + line / 6 + text_size
            _truncated(caption, text_size, tile_size).draw(pen, x, baseline, TEXT_COLOR)
    return sheet


def _resized(image: Image.Image, tile_size: int) -> Image.Image:
    scale = tile_size / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _truncated(text: str, text_size: float, width: int) -> Line:
    """The text, shortened to `width` pixels."""
    line = typeset(text, text_size)
    while text and line.width > width:
        text = text[:-1]
        line = typeset(f"{text}…", text_size)
    return line


@dataclass(frozen=True)
class Panel:
    """An image of a panel sheet, with a heading and text below."""

    image: Image.Image
    heading: str
    text: str = ""


def panel_sheet(
    rows: Sequence[Sequence[Panel]], *, title: str, legend: Image.Image, text_size: float = 20
) -> Image.Image:
    """Rows of panels, images at their original size; the title above, the legend below.

    Args:
        text_size: font size in pixels.
    """
    gap = round(text_size * 1.2)
    columns = max(len(row) for row in rows)
    panel_width = max(panel.image.width for row in rows for panel in row)
    blocks = [[_block(panel, panel_width, text_size) for panel in row] for row in rows]
    heights = [max(block.height for block in row) for row in blocks]
    width = max(columns * (panel_width + gap) + gap, legend.width + 2 * gap)
    head = round(text_size * 3)
    sheet = Image.new("RGB", (width, head + sum(heights) + len(rows) * gap + legend.height + gap), BACKGROUND)
    heading = _truncated(title, text_size * 1.35, width - 2 * gap)
    heading.draw(ImageDraw.Draw(sheet), gap, text_size * 2.1, TEXT_COLOR)
    y = head
    for row, height in zip(blocks, heights, strict=True):
        for column, block in enumerate(row):
            sheet.paste(block, (gap + column * (panel_width + gap), y))
        y += height + gap
    sheet.paste(legend, (gap, y))
    return sheet


def _block(panel: Panel, width: int, text_size: float) -> Image.Image:
    lines = [(line, TEXT_COLOR) for line in wrap_text(panel.heading, text_size * 1.1, width)]
    lines += [(line, _SECONDARY_TEXT_COLOR) for line in wrap_text(panel.text, text_size, width)]
    step = round(text_size * 1.4)
    block = Image.new("RGB", (width, panel.image.height + round(text_size * 0.5) + step * len(lines)), BACKGROUND)
    block.paste(panel.image, (0, 0))
    pen = ImageDraw.Draw(block)
    for number, (line, color) in enumerate(lines):
        line.draw(pen, 0, panel.image.height + round(text_size * 1.4) + number * step, color)
    return block


def wrap_text(text: str, text_size: float, width: int) -> list[Line]:
    """Breaks text into lines of at most `width` pixels. A single word that is wider gets a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and typeset(longer, text_size).width <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return [typeset(line, text_size) for line in lines]
