"""Checks of a single box, the same for every format."""

import math

from pipeline.formats.records import Box, Issue

# Pixels. A box of this width or height or less is usually a click without a drag: VOC's xmin = xmax.
MIN_SIDE = 1.0
# Pixels. A box that extends this far beyond the image, or less, is off by rounding or by one: it is clipped silently.
ROUNDING = 1.0
# Pixels. Floating-point noise (473.07 + 166.93 is not exactly 640 in binary): the box is not changed.
NOISE = 1e-3


def check_box(box: Box, width: int, height: int) -> tuple[Box | None, Issue | None]:
    """Checks a box against its image of `width` × `height` pixels.

    Returns:
        (box, None): The box is valid; it is clipped if it extended beyond the image by no more than ROUNDING.
        (box, issue): The box extended further beyond the image; the returned box is the part inside the image.
        (None, issue): The box can't be used.
    """
    x, y, w, h = box
    if x >= 0 and y >= 0 and w > MIN_SIDE and h > MIN_SIDE and x + w <= width and y + h <= height:  # the usual case
        return box, None
    if (issue := _check_shape(box)) is not None:
        return None, issue
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    excess = max(left - x, top - y, x + w - right, y + h - bottom)
    if excess <= NOISE:
        return box, None
    clipped = (left, top, right - left, bottom - top)
    issue = Issue("out_of_bounds_box", f"{_format(box)} extends {excess:g} px beyond the {width}×{height} image")
    if clipped[2] <= MIN_SIDE or clipped[3] <= MIN_SIDE:
        return None, issue
    return clipped, issue if excess > ROUNDING else None


def _check_shape(box: Box) -> Issue | None:
    _, _, w, h = box
    if not all(math.isfinite(value) for value in box):
        return Issue("non_finite_box", f"{_format(box)} has NaN or infinite values")
    if w < 0 or h < 0:
        return Issue("swapped_corners", f"{_format(box)} has swapped corners")
    if w == 0 or h == 0:
        return Issue("degenerate_box", f"{_format(box)} has zero width or height")
    if w <= MIN_SIDE or h <= MIN_SIDE:
        return Issue("tiny_box", f"{_format(box)} is at most {MIN_SIDE:g} px wide or high")
    return None


def unswap_corners(box: Box) -> Box:
    """The same rectangle with non-negative width and height."""
    x, y, w, h = box
    return (min(x, x + w), min(y, y + h), abs(w), abs(h))


def _format(box: Box) -> str:
    x, y, w, h = box
    return f"box [x {x:g}, y {y:g}, width {w:g}, height {h:g}]"
