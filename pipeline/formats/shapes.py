"""Bounding boxes of shapes that annotation tools draw: x, y, width, height in pixels."""

import math
from collections.abc import Sequence

from pipeline.formats.records import Box

Point = tuple[float, float]


def box_around_points(points: Sequence[Point]) -> Box:
    """The bounding box of at least one point."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))


def box_around_rotated(box: Box, degrees: float) -> Box:
    """The bounding box of a box that is rotated about its center."""
    x, y, width, height = box
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    return _centered(x + width / 2, y + height / 2, width * cosine + height * sine, width * sine + height * cosine)


def box_around_ellipse(center: Point, radii: Point, degrees: float) -> Box:
    """The bounding box of an ellipse with radii along x and y that is then rotated about its center."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    width = 2 * math.hypot(radii[0] * cosine, radii[1] * sine)
    return _centered(*center, width, 2 * math.hypot(radii[0] * sine, radii[1] * cosine))


def box_around_circle(center: Point, edge: Point) -> Box:
    """The bounding box of a circle, given by its center and a point on it."""
    radius = math.dist(center, edge)
    return _centered(*center, 2 * radius, 2 * radius)


def _centered(x: float, y: float, width: float, height: float) -> Box:
    return (x - width / 2, y - height / 2, width, height)
