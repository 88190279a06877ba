"""Lines of YOLO's label files: a class number, then a box, a box with keypoints, or the corners of a polygon.

Formats: https://docs.ultralytics.com/datasets/detect/, https://docs.ultralytics.com/datasets/segment/,
https://docs.ultralytics.com/datasets/pose/, https://docs.ultralytics.com/datasets/obb/.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise

from pipeline.formats.records import Box, Issue
from pipeline.formats.shapes import Point, box_around_points

BOX = 5  # numbers of a line with a class and a box
CORNERS = 9  # numbers of a line with a class and four corners
# A box with keypoints and a polygon may have equally many numbers. Lines are boxes with keypoints if most of them have
# the same number of columns, their keypoints in the box and the box in the image, and half of them make no sense as
# polygons.
_COMMON_SHARE = 0.95  # of the lines with more than a box: as many columns as the others
_LEAST_SHARE = 0.5  # of all lines: a few long lines among boxes are polygons
_CONTAINED_SHARE = 0.9  # of the lines: keypoints in the box
_TOLERANCE = 0.1  # of a box's side
_MARGIN = 0.02  # of an image's side
_SAME_CENTER = 0.01  # of an image's side
_MOST_VALUES = 600  # of keypoints: twice those of whole bodies with hands and faces


def parse_numbers(line: str) -> list[float]:
    """The numbers of a line; empty if any column isn't a number."""
    try:
        return [float(column) for column in line.split()]
    except ValueError:
        return []


def read_box(numbers: Sequence[float], keypoint_values: int, size: tuple[int, int]) -> Box | Issue:
    """The box of a line in pixels: a center and size, with or without keypoints, or the bounding box of a polygon."""
    columns = len(numbers)
    width, height = size
    if columns in (BOX, BOX + keypoint_values):
        _, x, y, w, h = numbers[:5]
        return ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    if columns >= 7 and columns % 2 and not keypoint_values:
        return box_around_points([(x * width, y * height) for x, y in _points(numbers)])
    message = "not a class number with four numbers of a box or the points of a polygon"
    if columns == BOX + 1:
        message += "; the sixth number is a score (detections) or an angle, which aren't read"
    return Issue("invalid_record", message)


def guess_keypoint_values(lines: Sequence[Sequence[float]]) -> int:
    """The number of keypoint values that follow the box in each line, for a data set that doesn't state it.

    Lines with keypoints all have the same number of columns. Polygons rarely do, except for those of four corners.
    Lines with a box alone may be among either.

    Returns:
        0 if the lines are boxes or polygons.
    """
    counts = Counter(len(numbers) for numbers in lines if len(numbers) > BOX)
    [(columns, count)] = counts.most_common(1) or [(BOX, 0)]
    values = columns - BOX
    is_common = count >= max(_COMMON_SHARE * counts.total(), _LEAST_SHARE * len(lines))
    if not 2 <= values <= _MOST_VALUES or not is_common:
        return 0
    lines = [numbers for numbers in lines if len(numbers) == columns]
    if values % 3 == 0 and all(visibility in (0, 1, 2) for line in lines for visibility in line[BOX + 2 :: 3]):
        return values
    return values if values % 2 == 0 and _have_keypoints(lines) else 0


def _have_keypoints(lines: Sequence[Sequence[float]]) -> bool:
    """Whether lines with an odd number of columns are boxes with keypoints rather than polygons."""
    if sum(map(_contains_keypoints, lines)) < _CONTAINED_SHARE * len(lines):
        return False
    if len(lines[0]) == CORNERS and all(
        _is_convex(_points(line)) or _is_parallelogram(_points(line)) for line in lines
    ):
        return False
    return sum(_size_is_far(line) or _crosses_itself(_points(line)) for line in lines) >= 0.5 * len(lines)


def _points(numbers: Sequence[float]) -> list[Point]:
    return list(zip(numbers[1::2], numbers[2::2], strict=True))


def _keypoints(numbers: Sequence[float]) -> list[Point]:
    """The points that follow a box, without those that aren't labeled."""
    return [point for point in _points(numbers)[2:] if point != (0, 0)]


def _contains_keypoints(numbers: Sequence[float]) -> bool:
    """Whether the first four numbers are a box inside the image that contains the other points, read as keypoints."""
    _, x, y, w, h = numbers[:5]
    limit = 0.5 + _MARGIN
    inside = abs(x - 0.5) + w / 2 <= limit and abs(y - 0.5) + h / 2 <= limit
    reach_x, reach_y = w * (0.5 + _TOLERANCE), h * (0.5 + _TOLERANCE)
    return inside and all(abs(px - x) <= reach_x and abs(py - y) <= reach_y for px, py in _keypoints(numbers))


def _size_is_far(numbers: Sequence[float]) -> bool:
    """Whether the second point, which is the size of a box, is far outside the other points' bounding box."""
    center, (x, y) = _points(numbers)[:2]
    left, top, width, height = box_around_points([center, *_keypoints(numbers)])
    return abs(x - left - width / 2) > width or abs(y - top - height / 2) > height


def _is_convex(corners: Sequence[Point]) -> bool:
    """Whether a polygon of four corners turns in one direction only."""
    turns = [_turn(corners[index - 2], corners[index - 1], corners[index]) for index in range(4)]
    return all(turn >= 0 for turn in turns) or all(turn <= 0 for turn in turns)


def _is_parallelogram(corners: Sequence[Point]) -> bool:
    """Whether two pairs of four corners have the same center: a rectangle whose corners are in any order."""
    (ax, ay), *others = corners
    for index, (bx, by) in enumerate(others):
        (cx, cy), (dx, dy) = others[:index] + others[index + 1 :]
        if abs(ax + bx - cx - dx) < _SAME_CENTER and abs(ay + by - cy - dy) < _SAME_CENTER:
            return True
    return False


def _crosses_itself(corners: Sequence[Point]) -> bool:
    edges = list(pairwise([*corners, corners[0]]))
    return any(_cross(*first, *second) for first, second in combinations(edges, 2))


def _cross(a: Point, b: Point, c: Point, d: Point) -> bool:
    """Whether the inner parts of the segments ab and cd cross."""
    return _turn(a, b, c) * _turn(a, b, d) < 0 and _turn(c, d, a) * _turn(c, d, b) < 0


def _turn(a: Point, b: Point, c: Point) -> float:
    """Positive or negative by the direction of the turn from ab to bc; 0 if the points are on a line."""
    return (b[0] - a[0]) * (c[1] - b[1]) - (b[1] - a[1]) * (c[0] - b[0])
