"""Pictures of the assignment of an image: its objects, and the locations of each level with the object they learn."""

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
from PIL import ImageDraw

from fcos.locations import LevelGrid
from pipeline.analysis.assignment import ImageAssignment, level_name
from pipeline.errors import count_noun
from pipeline.visualization.boxes import (
    BACKGROUND,
    TEXT_COLOR,
    Box,
    Color,
    Dot,
    draw_dots,
    draw_outline,
    draw_tag,
    object_color,
    subdued,
)
from pipeline.visualization.contact_sheets import Panel, panel_sheet, wrap_text
from pipeline.visualization.fonts import load_font

_LONG_SIDE = 800  # pixels of a panel's image
_LEGEND_TEXT_SIZE = 20
_WHITE: Color = (255, 255, 255)
_GRAY: Color = (150, 150, 150)
_BACKGROUND_OPACITY = 0.55  # of the dots of background locations


def location_map(
    image: PIL.Image.Image, assignment: ImageAssignment, names: Sequence[str], *, left_out: int, title: str
) -> PIL.Image.Image:
    """A panel with the objects, and one panel per level with the locations that are assigned to each of them.

    Args:
        image: the network input.
        names: the class name of each object.
        left_out: number of objects that training leaves out.
    """
    scale = _LONG_SIDE / max(image.size)
    large = enlarge(image, scale)
    panels = [_object_panel(large, scale, assignment, names, left_out)]
    panels += [
        _level_panel(subdued(large), scale, assignment, level) for level in range(len(assignment.locations.grids))
    ]
    columns = {1: 1, 2: 2, 3: 3, 4: 2}.get(len(panels), 3)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return panel_sheet(rows, title=title, legend=_location_legend(columns * large.width, by_size=assignment.by_size))


def enlarge(image: PIL.Image.Image, scale: float) -> PIL.Image.Image:
    """The image, in RGB, resized by a factor."""
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)


def scale_box(box: Box, scale: float) -> Box:
    x1, y1, x2, y2 = box
    return x1 * scale, y1 * scale, x2 * scale, y2 * scale


def _object_panel(
    large: PIL.Image.Image, scale: float, assignment: ImageAssignment, names: Sequence[str], left_out: int
) -> Panel:
    picture = large.copy()
    unassigned = [item.unassigned_reason is not None for item in assignment.objects]
    for index, item in enumerate(assignment.objects):
        box = scale_box(item.box, scale)
        draw_outline(picture, box, object_color(index), dashed=unassigned[index], crossed=unassigned[index])
    for index, (item, name) in enumerate(zip(assignment.objects, names, strict=True)):
        text = f"{name}: no location" if unassigned[index] else name
        draw_tag(picture, scale_box(item.box, scale)[:2], text, object_color(index), 17)
    text = f"{count_noun(len(unassigned), 'object')}, each in its own color."
    if any(unassigned):
        text += (
            f" Dashed and crossed: no location is positive for the object, so it can't be learned ({sum(unassigned)})."
        )
    if left_out:
        text += f" Not shown: {count_noun(left_out, 'object')} that training leaves out (difficult, or a crowd)."
    return Panel(picture, "Objects to learn", text)


def _level_panel(picture: PIL.Image.Image, scale: float, assignment: ImageAssignment, level: int) -> Panel:
    grid = assignment.locations.grids[level]
    for index, item in enumerate(assignment.objects):
        box = scale_box(item.box, scale)
        if item.positives[level]:
            draw_outline(picture, box, object_color(index))
        else:
            draw_outline(picture, box, _GRAY, width=1, dashed=item.unassigned_reason is not None)
    positive, background = _dots(assignment, level, scale, picture.size)
    objects = sum(bool(item.positives[level]) for item in assignment.objects)
    text = f"{len(positive)} of {len(positive) + len(background)} locations learn {count_noun(objects, 'object')}."
    return Panel(
        draw_dots(picture, background + positive),
        f"{level_name(grid.stride)}: a location every {grid.stride} px",
        (_size_range(grid) if assignment.by_size else "") + (text if objects else "No object of this image."),
    )


def _dots(assignment: ImageAssignment, level: int, scale: float, size: tuple[int, int]) -> tuple[list[Dot], list[Dot]]:
    """The dots of a level's positive locations, and of its background locations inside the image."""
    start = sum(assignment.locations.counts[:level])
    rows = slice(start, start + assignment.locations.counts[level])
    step = assignment.locations.grids[level].stride * scale
    max_radius, background_radius = float(np.clip(0.46 * step, 2.6, 15.0)), float(np.clip(0.08 * step, 0.7, 2.6))
    positive, background = [], []
    for (x, y), is_positive, index, centerness in zip(
        (assignment.locations.xy[rows] * scale).tolist(),
        assignment.positive[rows].tolist(),
        assignment.index[rows].tolist(),
        assignment.centerness[rows].tolist(),
        strict=True,
    ):
        if is_positive:  # the area, not the radius, is proportional to centerness, because people compare areas
            positive.append(Dot(x, y, max(1.8, max_radius * math.sqrt(centerness)), object_color(index)))
        elif x < size[0] and y < size[1]:  # locations in the padding are not drawn
            background.append(Dot(x, y, background_radius, _WHITE, _BACKGROUND_OPACITY))
    return positive, background


def _size_range(grid: LevelGrid) -> str:
    """The range of max(l, t, r, b) that a level is responsible for, in words."""
    if math.isinf(grid.up_to):
        return (
            f"Objects whose farthest side is over {grid.above:g} px away. " if grid.above else "Objects of any size. "
        )
    return f"Objects whose farthest side is {f'{grid.above:g} to' if grid.above else 'up to'} {grid.up_to:g} px away. "


def _location_legend(width: int, *, by_size: bool) -> PIL.Image.Image:
    positive = PIL.Image.new("RGB", (150, 36), BACKGROUND)
    sizes = [(18, 0.1), (48, 0.3), (84, 0.6), (124, 1.0)]
    positive = draw_dots(positive, [Dot(x, 18, 15 * math.sqrt(value), object_color(1)) for x, value in sizes])
    background = PIL.Image.new("RGB", (60, 36), (70, 70, 70))
    positions = [(x, y) for x in (10, 30, 50) for y in (9, 27)]
    background = draw_dots(background, [Dot(x, y, 2, _WHITE, _BACKGROUND_OPACITY) for x, y in positions])
    unassigned = PIL.Image.new("RGB", (60, 36), BACKGROUND)
    draw_outline(unassigned, (1, 1, 59, 35), (120, 120, 120), dashed=True, crossed=True)
    return legend(
        [
            (positive, "location that learns the object of this color, centerness 0.1, 0.3, 0.6 and 1"),
            (background, "background location"),
            (unassigned, "object without a location"),
        ],
        "Centerness is 1 in the middle of a box and 0 at its sides."
        + (" The farthest side is measured from the location." if by_size else ""),
        width,
    )


def legend(items: Sequence[tuple[PIL.Image.Image, str]], text: str, width: int) -> PIL.Image.Image:
    """Symbols with their meanings from left to right, in as many lines as needed, and text below."""
    font, line, gap = load_font(_LEGEND_TEXT_SIZE), 46, 14
    placed, x, y = [], 0.0, 0
    for symbol, meaning in items:
        needed = symbol.width + gap + font.getlength(meaning)
        if x and x + needed > width:
            x, y = 0.0, y + line
        placed.append((symbol, meaning, round(x), y))
        x += needed + 3 * gap
    text_lines = wrap_text(text, _LEGEND_TEXT_SIZE, width)
    picture = PIL.Image.new("RGB", (width, y + line + 30 * len(text_lines)), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for symbol, meaning, left, top in placed:
        picture.paste(symbol, (left, top))
        pen.text((left + symbol.width + gap, top + 6), meaning, fill=TEXT_COLOR, font=font)
    for number, text_line in enumerate(text_lines):
        text_line.draw(pen, 0, y + line + 30 * number + _LEGEND_TEXT_SIZE, TEXT_COLOR)
    return picture
