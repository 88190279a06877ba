"""Statistics of a data set: sizes of images and boxes, objects per image, and objects per pyramid level."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fcos.locations import size_ranges
from pipeline.analysis.advice_context import Context
from pipeline.analysis.assignment import level_name
from pipeline.analysis.tiling import Floats
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import count_noun
from pipeline.loading.dataset import trainable_annotations

_SIZE_EDGES = 2.0 ** np.arange(1, 11.5, 0.5)  # pixels, half octaves
_RATIO_EDGES = 2.0 ** np.arange(-3.25, 3.5, 0.5)  # width / height; 1:1 is in the middle of a bin
_COUNT_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 11, 16, 21, 31, 51, 101, 201)
_MAX_IMAGE_SIZES = 8  # image sizes that are listed


@dataclass(frozen=True)
class Bin:
    tick: str  # label at the left edge; empty for most bins
    name: str  # the range in words
    count: int


@dataclass(frozen=True)
class Histogram:
    bins: tuple[Bin, ...]
    note: str  # one sentence: median and extremes

    @property
    def total(self) -> int:
        return sum(item.count for item in self.bins)

    @property
    def largest(self) -> int:
        return max((item.count for item in self.bins), default=0)


@dataclass(frozen=True)
class Bar:
    """One line of a bar chart."""

    name: str
    detail: str
    count: int
    total: int

    @property
    def share(self) -> float:
        return self.count / self.total if self.total else 0.0


def box_size_histogram(box_sizes: Floats) -> Histogram:
    """√area of boxes of these heights and widths [M, 2] in pixels."""
    sizes = np.sqrt(box_sizes.prod(axis=1))
    ticks = ["" if index % 2 else f"{edge:g}" for index, edge in enumerate(_SIZE_EDGES)]
    names = _range_names([f"{edge:.0f}" for edge in _SIZE_EDGES], " px")
    return _histogram(sizes, _SIZE_EDGES, ticks, names, _percentiles_text(sizes, "px"))


def aspect_ratio_histogram(box_sizes: Floats) -> Histogram:
    """Width / height of boxes of these heights and widths [M, 2]."""
    ratios = box_sizes[:, 1] / box_sizes[:, 0]
    middles = np.arange(-3, 3.5, 0.5)
    ticks = ["" if middle % 1 else _ratio_text(2.0**middle) for middle in middles]
    names = _range_names([f"{edge:.2g}" for edge in _RATIO_EDGES], " : 1")
    wide, tall = (ratios > 1.19).sum(), (ratios < 0.84).sum()
    note = f"{_percent(wide, len(ratios))} are wider than high, {_percent(tall, len(ratios))} are higher than wide"
    return _histogram(ratios, _RATIO_EDGES, ticks, names, note)


def objects_per_image_histogram(split: AnnotationSet, *, include_difficult: bool) -> Histogram:
    """The number of images by their number of training objects."""
    objects = trainable_annotations(split.annotations, include_difficult=include_difficult)
    count_of = Counter(item.image_id for item in objects)
    counts = np.array([count_of[image.id] for image in split.images], dtype=np.float64)
    edges = np.array([*_COUNT_EDGES, np.inf])
    names = [_count_range(low, high) for low, high in zip(_COUNT_EDGES, [*_COUNT_EDGES[1:], None], strict=True)]
    note = f"{counts.mean():.1f} on average, {counts.max():,.0f} at most; {(counts == 0).sum():,} images have none"
    return _histogram(counts, edges, [str(edge) for edge in _COUNT_EDGES], names, note)


def image_size_bars(image_sizes: Floats) -> list[Bar]:
    """The most common sizes of stored images, from their heights and widths [N, 2] in pixels."""
    counts = Counter((int(width), int(height)) for height, width in image_sizes)
    bars = [
        Bar(f"{width}×{height}", "", count, len(image_sizes))
        for (width, height), count in counts.most_common(_MAX_IMAGE_SIZES)
    ]
    others = len(image_sizes) - sum(bar.count for bar in bars)
    if others:
        bars.append(Bar(f"{len(counts) - len(bars):,} others", "", others, len(image_sizes)))
    return bars


def level_bars(context: Context) -> list[Bar]:
    """Objects with locations on each pyramid level, and objects without a location.

    An object may have locations on several levels. Empty if the assigner needs the predictions of a detector.
    """
    if context.recall is None:
        return []
    model, recall = context.params.model, context.recall
    total = recall.objects["all"]
    ranges = (
        size_ranges(model.strides, model.regression_ranges) if model.assigner == "fcos" else [None] * len(model.strides)
    )
    bars = [
        Bar(level_name(stride), _level_detail(stride, size_range), recall.levels[level_name(stride)], total)
        for stride, size_range in zip(model.strides, ranges, strict=True)
    ]
    return [*bars, Bar("none", "objects without a location", total - recall.assigned["all"], total)]


def _level_detail(stride: int, size_range: tuple[float, float] | None) -> str:
    if size_range is None:
        return f"stride {stride}"
    low, high = size_range
    distances = f"distances up to {high:g} px" if np.isfinite(high) else f"distances over {low:g} px"
    return f"stride {stride}; {distances}"


def _histogram(values: Floats, edges: Floats, ticks: Sequence[str], names: Sequence[str], note: str) -> Histogram:
    """Counts between edges. Values beyond the edges belong to the first and last bin; empty bins at the ends go."""
    indices = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(indices, minlength=len(edges) - 1)
    used = np.flatnonzero(counts)
    shown = range(used[0], used[-1] + 1) if len(used) else range(0)
    return Histogram(tuple(Bin(ticks[index], names[index], int(counts[index])) for index in shown), note)


def _range_names(edges: Sequence[str], unit: str) -> list[str]:
    inner = [f"{low} to {high}{unit}" for low, high in pairwise(edges)]
    return [f"under {edges[1]}{unit}", *inner[1:-1], f"over {edges[-2]}{unit}"]


def _count_range(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} objects or more"
    return count_noun(low, "object") if high == low + 1 else f"{low} to {high - 1} objects"


def _ratio_text(value: float) -> str:
    return f"{value:g}:1" if value >= 1 else f"1:{1 / value:g}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _percentiles_text(values: Floats, unit: str) -> str:
    if not len(values):
        return ""
    low, median, high = np.percentile(values, [5, 50, 95])
    return f"median {median:.0f} {unit}; 5% are under {low:.0f} {unit}, 5% over {high:.0f} {unit}"
