"""Annotations and detections as columns: arrays are compared hundreds of times faster than records."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.data.annotations import Annotation
from pipeline.data.detections import Detection


@dataclass(frozen=True, eq=False)
class Columns:
    """N records."""

    image_ids: NDArray[np.int64]  # [N]
    category_ids: NDArray[np.int64]  # [N]
    boxes: NDArray[np.float64]  # [N, 4]: x, y, width, height

    @classmethod
    def of(cls, records: Sequence[Annotation] | Sequence[Detection]) -> "Columns":
        coordinates = chain.from_iterable([record.bbox for record in records])
        return cls(
            image_ids=np.array([record.image_id for record in records], dtype=np.int64),
            category_ids=np.array([record.category_id for record in records], dtype=np.int64),
            boxes=np.fromiter(coordinates, np.float64, 4 * len(records)).reshape(-1, 4),
        )


def positions(ids: Sequence[int], values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The position in `ids` of each value; all values are among them."""
    known = np.array(ids, dtype=np.int64)
    order = np.argsort(known)
    found: NDArray[np.int64] = order[np.searchsorted(known[order], values)]
    return found
