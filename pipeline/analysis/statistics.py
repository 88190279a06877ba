"""A data set in numbers: how large, how many, of which shape, and which pyramid level learns what."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fcos.locations import size_ranges
from pipeline.analysis import advice
from pipeline.analysis.advice import Context, Floats
from pipeline.analysis.assignment import level_name
from pipeline.data.annotations import AnnotationSet
from pipeline.errors import count_noun
from pipeline.loading.dataset import trainable_annotations

# Of all advice, that which is about the data and the input size; the rest is about the training's course.
DATA_ADVICE = (
    advice.unknown_classes,
    advice.missing_classes,
    advice.unequal_classes,
    advice.unlearnable,
    advice.small_boxes,
    advice.empty_levels,
    advice.large_images,
)
_SIZE_EDGES = 2.0 ** np.arange(1, 11.5, 0.5)  # pixels, half octaves
_RATIO_EDGES = 2.0 ** np.arange(-3.25, 3.5, 0.5)  # width / height; squares are in the middle of a bin
_COUNT_EDGES = (0, 1, 2, 3, 4, 5, 6, 8, 11, 16, 21, 31, 51, 101, 201)
_COMMON = 8  # image sizes that are named


@dataclass(frozen=True)
class Bin:
    tick: str  # written below the bar's left edge; empty for most
    name: str  # the range in words
    count: int


@dataclass(frozen=True)
class Histogram:
    bins: tuple[Bin, ...]
    note: str  # a sentence: median, extremes

    @property
    def total(self) -> int:
        return sum(one.count for one in self.bins)

    @property
    def most(self) -> int:
        return max((one.count for one in self.bins), default=0)


@dataclass(frozen=True)
class Share:
    """One line of a list of bars."""

    name: str
    detail: str
    count: int
    of: int

    @property
    def share(self) -> float:
        return self.count / self.of if self.of else 0.0


def box_sizes(sides: Floats) -> Histogram:
    """√area of boxes [M, 2], height and width in pixels."""
    sizes = np.sqrt(sides.prod(axis=1))
    ticks = ["" if place % 2 else f"{edge:g}" for place, edge in enumerate(_SIZE_EDGES)]
    names = _ranges([f"{edge:.0f}" for edge in _SIZE_EDGES], " px")
    return _histogram(sizes, _SIZE_EDGES, ticks, names, _spread(sizes, "px"))


def aspect_ratios(sides: Floats) -> Histogram:
    """Width / height of boxes [M, 2], height and width."""
    ratios = sides[:, 1] / sides[:, 0]
    middles = np.arange(-3, 3.5, 0.5)
    ticks = ["" if middle % 1 else _ratio(2.0**middle) for middle in middles]
    names = _ranges([f"{edge:.2g}" for edge in _RATIO_EDGES], " wide for 1 high")
    wide, tall = (ratios > 1.19).sum(), (ratios < 0.84).sum()
    note = f"{_percent(wide, len(ratios))} are wider than high, {_percent(tall, len(ratios))} higher than wide"
    return _histogram(ratios, _RATIO_EDGES, ticks, names, note)


def objects_per_image(split: AnnotationSet, *, difficult: bool) -> Histogram:
    """How many images have how many objects to learn."""
    found = Counter(one.image_id for one in trainable_annotations(split.annotations, include_difficult=difficult))
    counts = np.array([found[image.id] for image in split.images], dtype=np.float64)
    edges = np.array([*_COUNT_EDGES, np.inf])
    names = [_whole(low, high) for low, high in zip(_COUNT_EDGES, [*_COUNT_EDGES[1:], None], strict=True)]
    note = f"{counts.mean():.1f} on average, {counts.max():,.0f} at most; {(counts == 0).sum():,} images have none"
    return _histogram(counts, edges, [str(edge) for edge in _COUNT_EDGES], names, note)


def image_sizes(shapes: Floats) -> list[Share]:
    """The commonest sizes of images [N, 2], height and width in pixels, as stored."""
    count = Counter((int(width), int(height)) for height, width in shapes)
    rows = [
        Share(f"{width}×{height}", "", number, len(shapes)) for (width, height), number in count.most_common(_COMMON)
    ]
    others = len(shapes) - sum(row.count for row in rows)
    if others:
        rows.append(Share(f"{len(count) - len(rows):,} others", "", others, len(shapes)))
    return rows


def levels(now: Context) -> list[Share]:
    """Objects that each pyramid level learns, and those that none does; empty where only a detector can tell.

    One may be learned by several levels.
    """
    if now.found is None:
        return []
    model, every = now.params.model, now.found.objects["all"]
    ranges = (
        size_ranges(model.strides, model.regression_ranges) if model.assigner == "fcos" else [None] * len(model.strides)
    )
    rows = [
        Share(level_name(stride), _reach(stride, span), now.found.levels[level_name(stride)], every)
        for stride, span in zip(model.strides, ranges, strict=True)
    ]
    return [*rows, Share("none", "objects that no location learns", every - now.found.learned["all"], every)]


def told(now: Context) -> list[str]:
    """What to change, as far as data and input size go."""
    return [line for tell in DATA_ADVICE if (line := tell(now))]


def _reach(stride: int, span: tuple[float, float] | None) -> str:
    if span is None:
        return f"stride {stride}"
    above, up_to = span
    return (
        f"stride {stride}; distances up to {up_to:g} px"
        if np.isfinite(up_to)
        else f"stride {stride}; beyond {above:g} px"
    )


def _histogram(values: Floats, edges: Floats, ticks: Sequence[str], names: Sequence[str], note: str) -> Histogram:
    """Counts between edges; what is beyond them goes to the ends, and empty ends are left out."""
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(places, minlength=len(edges) - 1)
    used = np.flatnonzero(counts)
    inside = range(used[0], used[-1] + 1) if len(used) else range(0)
    return Histogram(tuple(Bin(ticks[place], names[place], int(counts[place])) for place in inside), note)


def _ranges(edges: Sequence[str], unit: str) -> list[str]:
    inner = [f"{low} to {high}{unit}" for low, high in pairwise(edges)]
    return [f"under {edges[1]}{unit}", *inner[1:-1], f"over {edges[-2]}{unit}"]


def _whole(low: int, high: int | None) -> str:
    if high is None:
        return f"{low} objects or more"
    return count_noun(low, "object") if high == low + 1 else f"{low} to {high - 1} objects"


def _ratio(value: float) -> str:
    return f"{value:g}:1" if value >= 1 else f"1:{1 / value:g}"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "0%"


def _spread(values: Floats, unit: str) -> str:
    if not len(values):
        return ""
    low, middle, high = np.percentile(values, [5, 50, 95])
    return f"median {middle:.0f} {unit}; one in twenty is under {low:.0f} {unit}, one in twenty over {high:.0f} {unit}"
