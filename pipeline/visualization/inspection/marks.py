"""Marked boxes: those in question are bright and labeled, all others pale, so that crowded images stay readable."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import PIL.Image
from PIL import ImageDraw

from pipeline.visualization.boxes import Box, Color, contrasting_color, draw_outline
from pipeline.visualization.fonts import Line, typeset

_RIM_COLOR: Color = (20, 20, 20)
_PALE = 0.6  # opacity of boxes that are not in question
_TEXT_SHARE = 1 / 32  # size of letters, relative to the longer side of the picture
_MIN_TEXT = 13.0  # pixels
_MAX_LABEL = 24  # letters
_MAX_WIDTH = 0.5  # of the picture
_MAX_COVERED = 0.12  # share of the picture that labels may hide together
_PADDING = 4  # pixels, left and right of a label
_SMALL_BOX = 12  # times the area of a tag: a tag would hide a smaller box
_MIN_SHARE = 1 / 12  # of the picture's longer side: a smaller box is shown with its surroundings alone
_SURROUNDINGS = 10  # times the longer side of the box, and at least
_MIN_SURROUNDINGS = 96  # pixels


@dataclass(frozen=True)
class Mark:
    """A box to draw, in pixels of the picture."""

    box: Box
    color: Color
    label: str = ""
    in_question: bool = True
    dashed: bool = False


def draw_marks(picture: PIL.Image.Image, marks: Sequence[Mark]) -> PIL.Image.Image:
    """Returns a copy of the picture, in RGB, with the marks.

    Args:
        marks: the most important ones first. Labels never cover each other: a box for whose label there is no room has
            none, and so have the last ones where labels would hide too much of the picture.
    """
    canvas = picture.convert("RGB")
    pale = canvas.copy()
    for mark in marks:
        if not mark.in_question:
            draw_outline(pale, mark.box, mark.color, width=1, dashed=mark.dashed)
    canvas = PIL.Image.blend(canvas, pale, _PALE)
    bright = [mark for mark in marks if mark.in_question]
    width = max(2, round(max(canvas.size) / 240))
    for mark in reversed(bright):
        x1, y1, x2, y2 = mark.box
        draw_outline(canvas, (x1 - 1, y1 - 1, x2 + 1, y2 + 1), _RIM_COLOR, width=1)
        draw_outline(canvas, mark.box, mark.color, width=width, dashed=mark.dashed)
    _draw_labels(canvas, bright)
    return canvas


def _draw_labels(canvas: PIL.Image.Image, marks: Sequence[Mark]) -> None:
    pen = ImageDraw.Draw(canvas)
    for mark, line, tag in place_labels(marks, canvas.size):
        pen.rectangle(tag, fill=mark.color)
        top, bottom = line.extent
        line.draw(pen, tag[0] + _PADDING, (tag[1] + tag[3] - top - bottom) / 2, contrasting_color(mark.color))


def place_labels(marks: Sequence[Mark], size: tuple[int, int]) -> list[tuple[Mark, Line, Box]]:
    """The labels that have room on a picture, the first ones first, each with its text and its tag.

    All tags are inside the picture, and none covers another.
    """
    text_size = max(_MIN_TEXT, max(size) * _TEXT_SHARE)
    height = math.ceil(text_size * 1.35)
    boxes = [mark.box for mark in marks]
    placed: list[tuple[Mark, Line, Box]] = []
    for mark in marks:
        if not mark.label or sum(area(tag) for _, _, tag in placed) > _MAX_COVERED * size[0] * size[1]:
            continue
        line = _fitted(mark.label, text_size, max(_MAX_WIDTH * size[0], 60) - 2 * _PADDING - 1)
        tag_size = math.ceil(line.width) + 2 * _PADDING, height
        if tag := _place(mark.box, tag_size, size, [taken for _, _, taken in placed], boxes):
            placed.append((mark, line, tag))
    return placed


def _fitted(label: str, text_size: float, width: float) -> Line:
    """The label, shortened in its middle, so that the score at its end remains."""
    kept = min(len(label), _MAX_LABEL)
    while True:
        line = typeset(shorten(label, kept), text_size)
        if line.width <= width or kept <= 1:
            return line
        kept -= 1


def shorten(text: str, length: int) -> str:
    """The text with an ellipsis in its middle if it is longer than `length`."""
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[len(text) - end :]}"


def _place(
    box: Box, size: tuple[int, int], canvas: tuple[int, int], taken: Sequence[Box], boxes: Sequence[Box]
) -> Box | None:
    """Where a tag hides the least of small boxes without covering another tag; None without such a place.

    Args:
        size: width and height of the tag.
        taken: the tags that are already placed.
    """
    width, height = size
    small = [other for other in boxes if area(other) < _SMALL_BOX * width * height]
    free = [tag for tag in _positions(box, size, canvas) if not any(overlap(tag, other) for other in taken)]
    return min(free, key=lambda tag: sum(overlap(tag, other) for other in small), default=None)


def _positions(box: Box, size: tuple[int, int], canvas: tuple[int, int]) -> list[Box]:
    """Tags around and in a box, the usual place first: above its upper left corner. All are inside the canvas."""
    (x1, y1, x2, y2), (width, height) = box, size
    corners = [
        (x, y) for y in (y1 - height, y2, y1, y2 - height) for x in (x1, x2 - width)
    ] + [(x, y) for x in (x2, x1 - width) for y in (y1, y2 - height)]  # fmt: skip
    placed = [(min(max(x, 0), canvas[0] - 1 - width), min(max(y, 0), canvas[1] - 1 - height)) for x, y in corners]
    return [(max(x, 0), max(y, 0), max(x, 0) + width, max(y, 0) + height) for x, y in placed]


def area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def _meet(a: Box, b: Box) -> bool:
    """Whether boxes have a point in common; one of them may have no area."""
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]


def choose_view(size: tuple[int, int], focus: Box) -> Box:
    """The part of an image to show: the whole, or the surroundings of a box that would be too small to recognize.

    Args:
        size: width and height of the image.
    """
    width, height = size
    longer = max(focus[2] - focus[0], focus[3] - focus[1])
    side = math.ceil(max(_SURROUNDINGS * longer, _MIN_SURROUNDINGS))
    if longer >= _MIN_SHARE * max(size) or side >= max(size):
        return 0, 0, width, height
    left, top = (
        round(min(max((low + high - side) / 2, 0), max(0, limit - side)))
        for low, high, limit in ((focus[0], focus[2], width), (focus[1], focus[3], height))
    )
    return left, top, min(left + side, width), min(top + side, height)


def draw_view(image: PIL.Image.Image, view: Box, marks: Sequence[Mark], long_side: int) -> PIL.Image.Image:
    """A part of an image with the marks in it, whose boxes are in pixels of the image.

    Args:
        long_side: of the result, in pixels.
    """
    picture, scale = crop_to(image, view, long_side)
    return draw_marks(
        picture, [replace(mark, box=moved(mark.box, view, scale)) for mark in marks if _meet(mark.box, view)]
    )


def crop_to(picture: PIL.Image.Image, view: Box, long_side: int) -> tuple[PIL.Image.Image, float]:
    """The part of the image, resized so that its longer side has `long_side` pixels, and the factor of its size."""
    width, height = view[2] - view[0], view[3] - view[1]
    scale = long_side / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return picture.resize(size, PIL.Image.Resampling.BICUBIC, box=view, reducing_gap=3.0), scale


def moved(box: Box, view: Box, scale: float) -> Box:
    """A box of the image in pixels of the part that is shown."""
    x1, y1, x2, y2 = box
    return (x1 - view[0]) * scale, (y1 - view[1]) * scale, (x2 - view[0]) * scale, (y2 - view[1]) * scale
