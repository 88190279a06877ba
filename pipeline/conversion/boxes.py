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
    shown = f"its box [x {x:g}, y {y:g}, width {w:g}, height {h:g}]"
    if not all(math.isfinite(side) for side in box):
        return None, Fault("not_finite", f"{shown} has numbers that are not finite")
    if w < 0 or h < 0:
        return None, Fault("swapped", f"{shown} has its corners swapped")
    if w == 0 or h == 0:
        return None, Fault("degenerate", f"{shown} has no width or no height")
    if w <= THIN or h <= THIN:
        return None, Fault("thin", f"{shown} is no more than {THIN:g} px across")
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    beyond = max(left - x, top - y, x + w - right, y + h - bottom)
    if beyond <= NOISE:
        return box, None
    clipped = (left, top, right - left, bottom - top)
    fault = Fault("outside", f"{shown} reaches {beyond:g} px outside its image of {width}×{height}")
    if clipped[2] <= THIN or clipped[3] <= THIN:
        return None, fault
    return clipped, fault if beyond > ROUNDING else None
