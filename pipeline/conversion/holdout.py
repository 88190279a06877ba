"""Which images are held out of a split to be judged on: by a seed and each image's content alone, fair to every class.

An image's side follows from (seed, its key): no other image has a say, so that adding some moves none. The key is the
digest of its content, so that equal files share a side, or its group's.

A rule that looked at the other images could not leave each where it is when some are added, so stratification is a
choice among seeds: `convert.split_seed: auto` makes it, and a number pins it.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.conversion.issues import IssueLog
from pipeline.conversion.match_images import MatchedRecord
from pipeline.conversion.splits import LATER_SPLITS
from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.records import Issue
from pipeline.params import ConvertParams

Keys = NDArray[np.uint64]
# Fair: no class's objects in val are further from their share than so many standard deviations of a random draw.
TOLERANCE = 1.5
FAR = 3.0  # of any seed, standard deviations worth a warning
SEEDS = 256  # of which the first fair one is taken, else the fairest


@dataclass(frozen=True)
class HoldOut:
    """How images were drawn, as report.json has it."""

    split_seed: int
    fair: bool  # to every class, by TOLERANCE
    better_seed: int | None  # where this one is an unfair split, and some other is better
    share: float  # asked for
    fold: int
    folds: int | None

    def report(self) -> dict[str, Any]:
        return asdict(self)


def hold_out_images(
    seen: Sequence[MatchedRecord], categories: Sequence[Category], options: ConvertParams, issue_log: IssueLog
) -> tuple[HoldOut, list[MatchedRecord], list[MatchedRecord]]:
    """Parts a split's images in those that stay and those that are held out.

    Raises:
        PipelineError: no image's path matches `convert.group_pattern`.
    """
    keys = np.array(list(_keys(seen, options.group_pattern, issue_log)), dtype=np.uint64)
    bounds = _bounds(options)
    counts = Counts.of(seen, keys, categories)
    seed = options.split_seed if options.split_seed != "auto" else fairest(counts, bounds)
    held = parts(keys, seed, bounds) == (options.fold if options.folds else 0)
    unfair = unfairness(counts, seed, bounds)
    better = None
    if seen and unfair > (0, 0, FAR):
        better = _better(counts, seed, bounds, options.fold)
        issue = Issue("unbalanced_split", _unfair(Draw.of(counts, seed, bounds), categories, better))
        issue_log.act(issue, None, f"convert.split_seed={seed}")
    way = HoldOut(seed, unfair <= FAIR, better, bounds[0], options.fold, options.folds)
    sides = [[item for item, out in zip(seen, held, strict=True) if out == side] for side in (False, True)]
    return way, sides[0], sides[1]


def _better(counts: "Counts", seed: int, bounds: Sequence[float], part: int) -> int | None:
    """A fairer seed, if there is one with images on both sides."""
    found = fairest(counts, bounds)
    better = unfairness(counts, found, bounds) < unfairness(counts, seed, bounds)
    return found if better and not Draw.of(counts, found, bounds).missed[part, -1] else None


def _unfair(draw: "Draw", categories: Sequence[Category], better: int | None) -> str:
    """What is drawn worst, and a better seed."""
    part, kind = draw.worst
    what = "images" if kind == len(categories) else f"objects of {categories[kind].name!r}"
    side = "val" if len(draw.share) == 1 else f"fold {part}"
    total, fair = draw.total[kind], draw.share[part, 0] * draw.total[kind]
    line = f"{side} gets {draw.held[part, kind]:,.0f} of {total:,.0f} {what}, where {fair:,.1f} would be its share"
    return line if better is None else f"{line}; -S convert.split_seed={better} is fairer"


def _bounds(options: ConvertParams) -> tuple[float, ...]:
    if options.folds:
        return tuple((fold + 1) / options.folds for fold in range(options.folds))
    return (options.val_fraction,)


def _keys(seen: Sequence[MatchedRecord], groups: str | None, issue_log: IssueLog) -> Iterator[int]:
    """64 bits of each image's content, or of its group's name; what matches no group is by itself."""
    names = [groups and _group(groups, item) for item in seen]
    if groups and seen and not any(name is not None for name in names):
        raise PipelineError(f"convert.group_pattern: {groups!r} matches no image's path, such as {seen[0].raw.file}")
    for item, name in zip(seen, names, strict=True):
        if groups and name is None:
            issue_log.note("images whose path convert.group_pattern doesn't match: each is by itself")
        digest = item.image_info.digest if name is None else hashlib.sha256(f"group {name}".encode()).hexdigest()
        yield int(digest[:16], 16)


def _group(groups: str, item: MatchedRecord) -> str | None:
    match = re.search(groups, item.raw.file)
    return match and match[1]


def check_groups(seen: Mapping[str, Sequence[MatchedRecord]], groups: str, issue_log: IssueLog) -> None:
    """Notes images whose group is in a later split too: the data set's own splits needn't keep groups together."""
    for split, later in LATER_SPLITS.items():
        judged = {_group(groups, item) for name in later for item in seen.get(name, ())} - {None}
        torn = sum(_group(groups, item) in judged for item in seen.get(split, ()))
        issue_log.note(f"images of {split} whose group (convert.group_pattern) is also in {' or '.join(later)}", torn)


def ranks(keys: Keys, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each key, as if drawn at random: SplitMix64 started at the key, its (seed + 1)th number.

    Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014), with Vigna's constants.
    """
    mixed = keys + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def parts(keys: Keys, seed: int, bounds: Sequence[float]) -> NDArray[np.int64]:
    """Each key's part, 0 … len(bounds): where its rank lies between the bounds."""
    return np.searchsorted(np.asarray(bounds), ranks(keys, seed), side="right")


@dataclass(frozen=True)
class Counts:
    """How many objects of each class every unit (a content, or a group) has; the last class counts its images."""

    units: Keys  # [units]
    unit: NDArray[np.int64]  # [pairs]: index in units
    kind: NDArray[np.int64]  # [pairs]: the class, 0 … classes
    number: NDArray[np.float64]  # [pairs]
    kinds: int  # classes + 1
    sums: NDArray[np.float64]  # [3, kinds]: Σ n⁰, Σ n¹, Σ n² over the units that have the class

    @classmethod
    def of(cls, seen: Sequence[MatchedRecord], keys: Keys, categories: Sequence[Category]) -> Self:
        kinds = len(categories) + 1
        index = {category.name: number for number, category in enumerate(categories)}
        units, own = np.unique(keys, return_inverse=True)
        pairs = [
            unit * kinds + index[raw.name]
            for unit, item in zip(own.tolist(), seen, strict=True)
            for raw in item.raw.objects
            if raw.issue is None and raw.name in index
        ]
        pairs.extend(unit * kinds + kinds - 1 for unit in own.tolist())
        codes, times = np.unique(np.array(pairs, dtype=np.int64), return_counts=True)
        unit, kind = np.divmod(codes, kinds)
        number = times.astype(np.float64)
        sums = np.stack([np.bincount(kind, number**power, kinds).astype(np.float64) for power in range(3)])
        return cls(units, unit, kind, number, kinds, sums)


Unfairness = tuple[int, int, float]
FAIR: Unfairness = (0, 0, TOLERANCE)


@dataclass(frozen=True)
class Draw:
    """What a seed gives to each part that is held out, one for each of the bounds.

    A class's objects in a part of share s, among units with n_u of them each, are drawn with a standard deviation of
    √(s (1 − s) Σ n_u²). A class is missed where a side's share of its units, rounded, is one or more, or where
    nothing is left to learn it from though another seed would leave some.
    """

    share: NDArray[np.float64]  # [parts, 1]
    held: NDArray[np.float64]  # [parts, kinds]: objects; of the last kind, images
    total: NDArray[np.float64]  # [kinds]
    missed: NDArray[np.bool_]  # [parts, kinds]: one of both sides has none
    due: NDArray[np.bool_]  # [parts, kinds]: missed where it should not be
    deviation: NDArray[np.float64]  # [parts, kinds]: standard deviations off the share

    @classmethod
    def of(cls, counts: Counts, seed: int, bounds: Sequence[float]) -> Self:
        share = np.diff(np.asarray(bounds), prepend=0.0)[:, None]
        part = parts(counts.units, seed, bounds)[counts.unit]
        cells = np.bincount(part * counts.kinds + counts.kind, counts.number, (len(bounds) + 1) * counts.kinds)
        held = cells.reshape(-1, counts.kinds)[: len(bounds)].astype(np.float64)
        units, total, squares = counts.sums
        missed = (held == 0) | (held == total)
        due = (np.minimum(share, 1 - share) * units >= 0.5) & missed
        if len(bounds) == 1:  # of several folds, each takes some class's only image
            due |= (held == total) & (total > 0)
        deviation = np.abs(held - share * total) / np.sqrt(np.maximum(share * (1 - share) * squares, 1e-12))
        return cls(share, held, total, missed, due, deviation)

    @property
    def worst(self) -> tuple[int, int]:
        """The part and the kind: without an image, else without a class, else with the largest deviation."""
        empty = np.zeros_like(self.missed)
        empty[:, -1] = self.missed[:, -1]
        rank = self.deviation + 1e6 * self.due + 1e9 * empty
        part, kind = np.unravel_index(rank.argmax(), rank.shape)
        return int(part), int(kind)


def unfairness(counts: Counts, seed: int, bounds: Sequence[float]) -> Unfairness:
    """How far a seed is from fair, worst first: sides without an image, without a class, largest deviation."""
    draw = Draw.of(counts, seed, bounds)
    return int(draw.missed[:, -1].sum()), int(draw.due.sum()), float(draw.deviation.max())


def fairest(counts: Counts, bounds: Sequence[float]) -> int:
    """The first seed 0, 1, 2, … that is fair; where none of SEEDS is, the one nearest to it."""
    best: tuple[Unfairness, int] | None = None
    for seed in range(SEEDS):
        found = unfairness(counts, seed, bounds)
        if found <= FAIR:  # as tuples: nothing empty, nothing missed, and within the tolerance
            return seed
        best = min(best or (found, seed), (found, seed))
    return best[1] if best else 0
