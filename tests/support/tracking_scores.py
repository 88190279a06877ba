"""IDF1 by its definition: how well tracked objects keep their numbers."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

Box = Sequence[float]  # x1, y1, x2, y2
Objects = dict[int, Box]  # by number


def iou(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def idf1(truth: Sequence[Objects], tracked: Sequence[Objects]) -> float:
    """Ristani et al. 2016: each true track is matched to at most one found track, so that most frames agree."""
    agreeing: Counter[tuple[int, int]] = Counter()
    for true, found in zip(truth, tracked, strict=True):
        agreeing.update((i, j) for i, a in true.items() for j, b in found.items() if iou(a, b) >= 0.5)
    rows, columns = ({number for frame in frames for number in frame} for frames in (truth, tracked))
    table = np.array([[agreeing[i, j] for j in sorted(columns)] for i in sorted(rows)])
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    return float(2 * matched / sum(len(frame) for frame in (*truth, *tracked)))
