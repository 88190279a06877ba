"""One rule for every box, whatever format it came from."""

import math

from pipeline.formats.records import Box, Fault

# A side of one pixel or less is a click without a drag, not an object: VOC's xmin = xmax.
THIN = 1.0
# Beyond the edge by no more than this is rounding, or an off-by-one in the annotator's tool: it is clipped silently.
ROUNDING = 1.0
# And this much is nothing at all: 473.07 + 166.93 in binary. The box stays as it is.
NOISE = 1e-3


def checked(box: Box, width: int, height: int) -> tuple[Box | None, Fault | None]:
    """The box as it can be used in an image of `width` × `height` pixels, and what was wrong with it.

    Returns:
        (box, None): a right one, clipped where it was beyond the edge by a rounding;
        (box, fault): it reached further beyond the edge; what is inside is left;
        (None, fault): nothing of it is usable.
    """
    x, y, w, h = box
    if x >= 0 and y >= 0 and w > THIN and h > THIN and x + w <= width and y + h <= height:  # most of them, soon
        return box, None
    if (fault := _misshapen(box)) is not None:
        return None, fault
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    beyond = max(left - x, top - y, x + w - right, y + h - bottom)
    if beyond <= NOISE:
        return box, None
    clipped = (left, top, right - left, bottom - top)
    fault = Fault("out_of_bounds_box", f"{_shown(box)} reaches {beyond:g} px outside its image of {width}×{height}")
    if clipped[2] <= THIN or clipped[3] <= THIN:
        return None, fault
    return clipped, fault if beyond > ROUNDING else None


def _misshapen(box: Box) -> Fault | None:
    _, _, w, h = box
    if not all(math.isfinite(side) for side in box):
        return Fault("non_finite_box", f"{_shown(box)} has numbers that are not finite")
    if w < 0 or h < 0:
        return Fault("swapped_corners", f"{_shown(box)} has its corners swapped")
    if w == 0 or h == 0:
        return Fault("degenerate_box", f"{_shown(box)} has no width or no height")
    if w <= THIN or h <= THIN:
        return Fault("tiny_box", f"{_shown(box)} is no more than {THIN:g} px across")
    return None


def righted(box: Box) -> Box:
    """A box whose corners are swapped, the right way round."""
    x, y, w, h = box
    return (min(x, x + w), min(y, y + h), abs(w), abs(h))


def _shown(box: Box) -> str:
    x, y, w, h = box
    return f"its box [x {x:g}, y {y:g}, width {w:g}, height {h:g}]"
