"""One rule for every box, whatever format it came from."""

import math

from pipeline.formats.records import Box, Issue

# A side of one pixel or less is a click without a drag, not an object: VOC's xmin = xmax.
MIN_SIDE = 1.0
# Beyond the edge by no more than this is rounding, or an off-by-one in the annotator's tool: it is clipped silently.
ROUNDING = 1.0
# And this much is nothing at all: 473.07 + 166.93 in binary. The box stays as it is.
NOISE = 1e-3


def check_box(box: Box, width: int, height: int) -> tuple[Box | None, Issue | None]:
    """The box as it can be used in an image of `width` × `height` pixels, and what was wrong with it.

    Returns:
        (box, None): a right one, clipped where it was beyond the edge by a rounding;
        (box, fault): it reached further beyond the edge; what is inside is left;
        (None, fault): nothing of it is usable.
    """
    x, y, w, h = box
    if x >= 0 and y >= 0 and w > MIN_SIDE and h > MIN_SIDE and x + w <= width and y + h <= height:  # most of them, soon
        return box, None
    if (issue := _misshapen(box)) is not None:
        return None, issue
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    beyond = max(left - x, top - y, x + w - right, y + h - bottom)
    if beyond <= NOISE:
        return box, None
    clipped = (left, top, right - left, bottom - top)
    issue = Issue("out_of_bounds_box", f"{_shown(box)} reaches {beyond:g} px outside its image of {width}×{height}")
    if clipped[2] <= MIN_SIDE or clipped[3] <= MIN_SIDE:
        return None, issue
    return clipped, issue if beyond > ROUNDING else None


def _misshapen(box: Box) -> Issue | None:
    _, _, w, h = box
    if not all(math.isfinite(side) for side in box):
        return Issue("non_finite_box", f"{_shown(box)} has numbers that are not finite")
    if w < 0 or h < 0:
        return Issue("swapped_corners", f"{_shown(box)} has its corners swapped")
    if w == 0 or h == 0:
        return Issue("degenerate_box", f"{_shown(box)} has no width or no height")
    if w <= MIN_SIDE or h <= MIN_SIDE:
        return Issue("tiny_box", f"{_shown(box)} is no more than {MIN_SIDE:g} px across")
    return None


def unswap_corners(box: Box) -> Box:
    """A box whose corners are swapped, the right way round."""
    x, y, w, h = box
    return (min(x, x + w), min(y, y + h), abs(w), abs(h))


def _shown(box: Box) -> str:
    x, y, w, h = box
    return f"its box [x {x:g}, y {y:g}, width {w:g}, height {h:g}]"
