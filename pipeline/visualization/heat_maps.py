"""The pictures of an explanation: feature centers, level by level, and heat maps of what a detector says."""

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import ImageDraw
from torch import Tensor

from fcos.locations import LevelGrid
from fcos.postprocess import Detections
from fcos.structures import Outputs
from pipeline.analysis.assignment import Explanation, by_level, level_name
from pipeline.errors import count_noun
from pipeline.visualization.boxes import (
    BACKGROUND,
    TEXT_COLOR,
    Box,
    Color,
    Dot,
    class_color,
    draw_boxes,
    draw_dots,
    draw_outline,
    draw_tag,
    load_font,
    object_color,
    subdued,
)
from pipeline.visualization.contact_sheets import Panel, panel_sheet, wrap_text
from pipeline.visualization.heat_colors import color_bar, overlay_heat

_LONG = 800  # pixels: the longer side of a panel's image
_HEAT_LONG = 560  # of a heat map's
SURE = 0.4  # score from which a detection is shown, as in `fcos predict`
_WHITE: Color = (255, 255, 255)
_LEAST = 0.3  # a class is named on a heat map where its probability is at least so high
_NAMED = 5  # classes named in one heat map, the surest


def centers(
    image: PIL.Image.Image, explained: Explanation, names: Sequence[str], *, left_out: int, title: str
) -> PIL.Image.Image:
    """The feature centers: the objects, then one panel a level with the locations that learn each of them.

    Args:
        image: as the network sees it.
        names: of the explained objects' classes, object by object.
        left_out: objects that training leaves out.
    """
    scale = _LONG / max(image.size)
    large = _enlarged(image, scale)
    panels = [_objects(large, scale, explained, names, left_out)]
    starts = np.cumsum([0, *explained.places.counts])
    for number, grid in enumerate(explained.places.grids):
        at = slice(int(starts[number]), int(starts[number + 1]))
        panels.append(_level(subdued(large), scale, explained, grid, number, at))
    columns = {1: 1, 2: 2, 3: 3, 4: 2}.get(len(panels), 3)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    return panel_sheet(rows, title=title, legend=_centers_legend(columns * large.width, by_range=explained.by_range))


def _enlarged(image: PIL.Image.Image, scale: float) -> PIL.Image.Image:
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.convert("RGB").resize(size, PIL.Image.Resampling.BICUBIC)


def _scaled(box: Box, scale: float) -> Box:
    return box[0] * scale, box[1] * scale, box[2] * scale, box[3] * scale


def _objects(
    large: PIL.Image.Image, scale: float, explained: Explanation, names: Sequence[str], left_out: int
) -> Panel:
    picture = large.copy()
    for number, one in enumerate(explained.objects):
        none = one.reason is not None
        draw_outline(picture, _scaled(one.box, scale), object_color(number), dashed=none, crossed=none)
    for number, (one, name) in enumerate(zip(explained.objects, names, strict=True)):
        text = f"{name}: no location" if one.reason else name
        draw_tag(picture, _scaled(one.box, scale)[:2], text, object_color(number), 17)
    lost = sum(one.reason is not None for one in explained.objects)
    text = f"{count_noun(len(explained.objects), 'object')}, a color each."
    if lost:
        text += f" {lost} dashed and crossed: no location is positive for it, so it can't be learned."
    if left_out:
        text += f" {left_out} more are left out of training: difficult, or a crowd."
    return Panel(picture, "What there is to learn", text)


def _level(
    picture: PIL.Image.Image, scale: float, explained: Explanation, grid: LevelGrid, number: int, at: slice
) -> Panel:
    for index, one in enumerate(explained.objects):
        if one.positives[number]:
            draw_outline(picture, _scaled(one.box, scale), object_color(index))
        else:
            draw_outline(picture, _scaled(one.box, scale), (150, 150, 150), width=1, dashed=one.reason is not None)
    step = grid.stride * scale
    largest, faint = min(15.0, max(2.6, 0.46 * step)), min(2.6, max(0.7, 0.08 * step))
    marks, learning = [], []
    for (x, y), positive, index, central in zip(
        (explained.places.xy[at] * scale).tolist(),
        explained.positive[at].tolist(),
        explained.index[at].tolist(),
        explained.centerness[at].tolist(),
        strict=True,
    ):
        if positive:  # area, not radius, grows with centerness: that is what an eye compares
            learning.append(Dot(x, y, max(1.8, largest * math.sqrt(central)), object_color(index)))
        elif x < picture.width and y < picture.height:  # the others look at padding
            marks.append(Dot(x, y, faint, _WHITE, 0.55))
    objects = sum(bool(one.positives[number]) for one in explained.objects)
    counted = f"{len(learning)} of {len(learning) + len(marks)} locations learn {count_noun(objects, 'object')}."
    return Panel(
        draw_dots(picture, marks + learning),
        f"{level_name(grid.stride)}: a location every {grid.stride} px",
        (_answers_for(grid) if explained.by_range else "") + (counted if objects else "Here: no object of this image."),
    )


def _answers_for(grid: LevelGrid) -> str:
    """The range of max(l, t, r, b) that a level learns, in words."""
    above, up_to = f"{grid.above:g}", f"{grid.up_to:g}"
    if math.isinf(grid.up_to):
        return (
            f"For objects whose farthest side is over {above} px away. " if grid.above else "For objects of any size. "
        )
    return f"For objects whose farthest side is {above + ' to' if grid.above else 'up to'} {up_to} px away. "


def _centers_legend(width: int, *, by_range: bool) -> PIL.Image.Image:
    grown, dark = PIL.Image.new("RGB", (150, 36), BACKGROUND), PIL.Image.new("RGB", (60, 36), (70, 70, 70))
    sizes_shown = [(18, 0.1), (48, 0.3), (84, 0.6), (124, 1.0)]
    grown = draw_dots(grown, [Dot(x, 18, 15 * math.sqrt(c), object_color(1)) for x, c in sizes_shown])
    dark = draw_dots(dark, [Dot(x, y, 2, _WHITE, 0.55) for x in (10, 30, 50) for y in (9, 27)])
    lost = PIL.Image.new("RGB", (60, 36), BACKGROUND)
    draw_outline(lost, (1, 1, 59, 35), (120, 120, 120), dashed=True, crossed=True)
    return _legend(
        [
            (grown, "learns the object of its color: centerness 0.1, 0.3, 0.6, 1"),
            (dark, "learns that there is nothing (background)"),
            (lost, "object without a location"),
        ],
        "Centerness is 1 in the middle of a box and 0 at its sides."
        + (" The farthest side: as seen from the location." if by_range else ""),
        width,
    )


def _legend(items: Sequence[tuple[PIL.Image.Image, str]], sentence: str, width: int) -> PIL.Image.Image:
    """Signs with their meanings, from left to right in as many lines as needed, and a sentence below."""
    font, line, gap = load_font(20), 46, 14
    placed, x, y = [], 0.0, 0
    for sign, text in items:
        needed = sign.width + gap + font.getlength(text)
        if x and x + needed > width:
            x, y = 0.0, y + line
        placed.append((sign, text, round(x), y))
        x += needed + 3 * gap
    sentences = wrap_text(sentence, font, width)
    picture = PIL.Image.new("RGB", (width, y + line + 30 * len(sentences)), BACKGROUND)
    pen = ImageDraw.Draw(picture)
    for sign, text, left, top in placed:
        picture.paste(sign, (left, top))
        pen.text((left + sign.width + gap, top + 6), text, fill=TEXT_COLOR, font=font)
    for number, text in enumerate(sentences):
        pen.text((0, y + line + 30 * number), text, fill=TEXT_COLOR, font=font)
    return picture


_INSIDE = "It is learned inside objects alone: elsewhere it means nothing."
_QUALITY = {
    "centerness": f"Centerness: how near the middle of its object each location takes itself to be. {_INSIDE}",
    "iou": f"IoU: how well each location takes its box to fit. {_INSIDE}",
}


def heat_maps(
    image: PIL.Image.Image,
    outputs: Outputs,
    found: Detections,
    truth: Sequence[tuple[Box, str]],
    *,
    names: Sequence[str],
    quality: str,
    title: str,
) -> PIL.Image.Image:
    """What a detector says of one image: its detections and its objects; per level, class and quality.

    Args:
        image: as the network sees it; boxes of `found` and `truth` are in its pixels.
        outputs: of this image alone.
        names: of the classes, by label.
        quality: what the detector's third output is, see ModelConfig.
    """
    scale = _HEAT_LONG / max(image.size)
    large = _enlarged(image, scale)
    probability, label = outputs.logits[0].float().sigmoid().cpu().max(dim=-1)
    locations, grids = outputs.locations, outputs.locations.grids
    classes = [
        _class_panel(large, scale, *each, names)
        for each in zip(grids, by_level(probability, locations), by_level(label, locations), strict=True)
    ]
    rows = [[_detected(large, scale, found, names), *classes]]
    if outputs.quality is not None:
        central = by_level(outputs.quality[0].float().sigmoid().cpu(), locations)
        panels = [
            Panel(_map(large, scale, grid, values)[0], f"{level_name(grid.stride)}: {quality}", _highest(values))
            for grid, values in zip(grids, central, strict=True)
        ]
        rows.append([_truth(large, scale, truth), *panels])
    return panel_sheet(rows, title=title, legend=_heat_legend(quality, (1 + len(grids)) * large.width))


def _detected(large: PIL.Image.Image, scale: float, found: Detections, names: Sequence[str]) -> Panel:
    labels = found.labels.tolist()
    picture = draw_boxes(
        large,
        (found.boxes * scale).tolist(),
        [names[label] for label in labels],
        [class_color(label) for label in labels],
        found.scores.tolist(),
    )
    return Panel(
        picture, "What it detects", f"{count_noun(len(labels), 'detection')} with a score of {SURE:g} or more."
    )


def _truth(large: PIL.Image.Image, scale: float, truth: Sequence[tuple[Box, str]]) -> Panel:
    boxes, names = [_scaled(box, scale) for box, _ in truth], [name for _, name in truth]
    picture = draw_boxes(large, boxes, names, [object_color(number) for number in range(len(boxes))])
    return Panel(
        picture, "What there is", count_noun(len(truth), "object") + "." if truth else "Nothing is known of it."
    )


def _map(
    large: PIL.Image.Image, scale: float, grid: LevelGrid, values: Tensor
) -> tuple[PIL.Image.Image, NDArray[np.float32]]:
    """A level's values over the image, each cell around its location; and the values as [h, w]."""
    table = values.view(grid.height, grid.width).numpy()
    left, top = (grid.first - grid.step_x / 2) * scale, (grid.first - grid.step_y / 2) * scale
    place = (left, top, left + grid.width * grid.step_x * scale, top + grid.height * grid.step_y * scale)
    return overlay_heat(large, table, place), table


def _class_panel(
    large: PIL.Image.Image, scale: float, grid: LevelGrid, values: Tensor, labels: Tensor, names: Sequence[str]
) -> Panel:
    picture, _ = _map(large, scale, grid, values)
    for place in _peaks(grid, values):
        x, y = (grid.xy()[place] * scale).tolist()
        draw_tag(picture, (x, y), names[int(labels[place])], class_color(int(labels[place])), 14)
    return Panel(picture, f"{level_name(grid.stride)}: class", f"A location every {grid.stride} px. {_highest(values)}")


def _peaks(grid: LevelGrid, values: Tensor) -> list[int]:
    """The places of the surest locations that are surer than those around, in the level's own list."""
    around = F.max_pool2d(values.view(1, grid.height, grid.width), 3, stride=1, padding=1).flatten()
    highest = values.where((values == around) & (values >= _LEAST), 0.0).sort(descending=True, stable=True)
    return [int(place) for value, place in zip(highest.values[:_NAMED], highest.indices, strict=False) if value > 0]


def _highest(values: Tensor) -> str:
    return f"Highest: {float(values.max()):.2f}."


def _heat_legend(quality: str, width: int) -> PIL.Image.Image:
    bar = PIL.Image.new("RGB", (330, 36), BACKGROUND)
    bar.paste(color_bar(270, 24), (30, 6))
    pen, font = ImageDraw.Draw(bar), load_font(20)
    pen.text((8, 6), "0", fill=TEXT_COLOR, font=font)
    pen.text((308, 6), "1", fill=TEXT_COLOR, font=font)
    text = "Class: the highest probability that any class has at a location, named where it peaks."
    return _legend([(bar, text)], _QUALITY.get(quality, ""), width)
