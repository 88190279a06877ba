"""The choice of held-out images (the val split, or one fold), balanced over the classes.

Whether an image is held out depends only on the seed and on the image's key: the digest of its content, or of its
group's name. So identical files stay together, and adding images moves no other image. The splitters of scikit-learn
don't have this property. Since the rule can't look at other images, classes are balanced by choosing the seed:
`convert.split_seed: auto` takes the first seed that gives a balanced split, and a number fixes the seed.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

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
Imbalance = tuple[int, int, float]

# The number of seeds that `auto` tries: it takes the first balanced one, or else the most balanced one.
NUM_SEEDS = 256
# No side lacks images or a class, and no class deviates from its share by more standard deviations of a random split.
BALANCED: Imbalance = (0, 0, 1.5)
# A split worse than this is reported as unbalanced.
TOLERABLE: Imbalance = (0, 0, 3.0)


@dataclass(frozen=True)
class HoldOut:
    """How the images were held out, for report.json."""

    split_seed: int
    balanced: bool
    better_seed: int | None  # for a split that is reported as unbalanced
    share: float  # of the images, as requested
    fold: int
    folds: int | None


def hold_out_images(
    matched: Sequence[MatchedRecord], categories: Sequence[Category], options: ConvertParams, issue_log: IssueLog
) -> tuple[HoldOut, list[MatchedRecord], list[MatchedRecord]]:
    """Divides a split's images into those that stay and those that are held out.

    Raises:
        PipelineError: No image's path matches `convert.group_pattern`.
    """
    keys = np.array(list(_keys(matched, options.group_pattern, issue_log)), dtype=np.uint64)
    bounds = _bounds(options)
    counts = count_objects(matched, keys, categories)
    seed = find_balanced_seed(counts, bounds) if options.split_seed == "auto" else options.split_seed
    split = evaluate_split(counts, seed, bounds)
    better_seed = None
    if matched and split.imbalance > TOLERABLE:
        better_seed = _find_better_seed(counts, split, bounds, options.fold)
        issue = Issue("unbalanced_split", _describe_imbalance(split, categories, better_seed))
        issue_log.handle(issue, None, f"convert.split_seed={seed}")
    hold_out = HoldOut(seed, split.imbalance <= BALANCED, better_seed, bounds[0], options.fold, options.folds)
    held_out = assign_parts(keys, seed, bounds) == options.fold
    sides = [[item for item, out in zip(matched, held_out, strict=True) if out == side] for side in (False, True)]
    return hold_out, sides[0], sides[1]


def _find_better_seed(counts: "ObjectCounts", split: "SplitBalance", bounds: Sequence[float], part: int) -> int | None:
    """A seed that gives a more balanced split with images on both sides, if there is one."""
    seed = find_balanced_seed(counts, bounds)
    other = evaluate_split(counts, seed, bounds)
    return seed if other.imbalance < split.imbalance and not other.one_sided[part, -1] else None


def _describe_imbalance(split: "SplitBalance", categories: Sequence[Category], better_seed: int | None) -> str:
    part, column = split.worst
    noun = "images" if column == len(categories) else f"objects of {categories[column].name!r}"
    side = "val" if len(split.share) == 1 else f"fold {part}"
    held_out, total, share = split.held_out[part, column], split.total[column], split.share[part, 0]
    line = f"{side} has {held_out:,.0f} of {total:,.0f} {noun}, expected {share * total:,.1f}"
    return line if better_seed is None else f"{line}; -S convert.split_seed={better_seed} is more balanced"


def _bounds(options: ConvertParams) -> tuple[float, ...]:
    """The upper bound of each held-out part within [0, 1): one part for val, or one for each fold."""
    if options.folds:
        return tuple((fold + 1) / options.folds for fold in range(options.folds))
    return (options.val_fraction,)


def _keys(matched: Sequence[MatchedRecord], pattern: str | None, issue_log: IssueLog) -> Iterator[int]:
    """64 bits of the digest of each image's group; an image outside any group has that of its content."""
    groups = [pattern and _group(pattern, item) for item in matched]
    if pattern and matched and all(group is None for group in groups):
        example = matched[0].record.file
        raise PipelineError(f"convert.group_pattern: {pattern!r} matches no image's path, such as {example}")
    for item, group in zip(matched, groups, strict=True):
        if pattern and group is None:
            issue_log.add_note("images that convert.group_pattern does not match; each is a group of one")
        digest = item.image_info.digest if group is None else hashlib.sha256(f"group {group}".encode()).hexdigest()
        yield int(digest[:16], 16)


def _group(pattern: str, item: MatchedRecord) -> str | None:
    match = re.search(pattern, item.record.file)
    return match and match[1]


def check_groups(splits: Mapping[str, Sequence[MatchedRecord]], pattern: str, issue_log: IssueLog) -> None:
    """Notes images whose group is also in a later split: published splits may divide groups."""
    for split, later_splits in LATER_SPLITS.items():
        later = {_group(pattern, item) for name in later_splits for item in splits.get(name, ())} - {None}
        shared = sum(_group(pattern, item) in later for item in splits.get(split, ()))
        issue_log.add_note(
            f"images of {split} whose group (convert.group_pattern) is also in {' or '.join(later_splits)}", shared
        )


def pseudo_random(keys: Keys, seed: int) -> NDArray[np.float64]:
    """A pseudo-random number in [0, 1) for each key: output number `seed` of SplitMix64 started at the key.

    Steele, Lea, Flood: Fast splittable pseudorandom number generators (OOPSLA 2014), with Vigna's constants.
    """
    mixed = keys + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def assign_parts(keys: Keys, seed: int, bounds: Sequence[float]) -> NDArray[np.int64]:
    """The part of each key, 0 … len(bounds); the last part stays in train."""
    return np.searchsorted(np.asarray(bounds), pseudo_random(keys, seed), side="right")


@dataclass(frozen=True)
class ObjectCounts:
    """The number of objects of each class in each group, as a sparse matrix; its last column counts images."""

    keys: Keys  # [groups]
    group: NDArray[np.int64]  # [entries]: index in keys
    column: NDArray[np.int64]  # [entries]: the class's index, or the number of classes for images
    count: NDArray[np.float64]  # [entries]
    columns: int  # classes + 1


def count_objects(matched: Sequence[MatchedRecord], keys: Keys, categories: Sequence[Category]) -> ObjectCounts:
    columns = len(categories) + 1
    column_of = {category.name: index for index, category in enumerate(categories)}
    unique_keys, group_of = np.unique(keys, return_inverse=True)
    cells = [
        group * columns + column_of[raw.class_name]
        for group, item in zip(group_of.tolist(), matched, strict=True)
        for raw in item.record.objects
        if raw.issue is None and not raw.iscrowd and raw.class_name in column_of
    ]
    cells.extend(group * columns + columns - 1 for group in group_of.tolist())
    unique_cells, count = np.unique(np.array(cells, dtype=np.int64), return_counts=True)
    group, column = np.divmod(unique_cells, columns)
    return ObjectCounts(unique_keys, group, column, count.astype(np.float64), columns)


@dataclass(frozen=True)
class SplitBalance:
    """How a seed divides the classes. The last column stands for images."""

    share: NDArray[np.float64]  # [parts, 1]: of each held-out part, as requested
    held_out: NDArray[np.float64]  # [parts, columns]: number of objects
    total: NDArray[np.float64]  # [columns]: number of objects
    one_sided: NDArray[np.bool_]  # [parts, columns]: the part has all objects, or none
    lacking: NDArray[np.bool_]  # [parts, columns]: one-sided, though both sides should have objects
    deviation: NDArray[np.float64]  # [parts, columns]: standard deviations from the share

    @property
    def imbalance(self) -> Imbalance:
        """The number of sides without images, that of sides without a class, and the largest deviation."""
        return int(self.one_sided[:, -1].sum()), int(self.lacking.sum()), float(self.deviation.max())

    @property
    def worst(self) -> tuple[int, int]:
        """The part and column that determine `imbalance`."""
        without_images = np.zeros_like(self.one_sided)
        without_images[:, -1] = self.one_sided[:, -1]
        rank = self.deviation + 1e6 * self.lacking + 1e9 * without_images
        part, column = np.unravel_index(rank.argmax(), rank.shape)
        return int(part), int(column)


def evaluate_split(counts: ObjectCounts, seed: int, bounds: Sequence[float]) -> SplitBalance:
    """The balance of a seed's split.

    Groups with n_g objects of a class give a part of share s a number of objects with standard deviation
    √(s (1 − s) Σ n_g²). Both sides should have objects of a class if the smaller side's share of its groups rounds to
    one or more; train should have objects of every class.
    """
    share = np.diff(np.asarray(bounds), prepend=0.0)[:, None]
    part = assign_parts(counts.keys, seed, bounds)[counts.group]
    cells = np.bincount(part * counts.columns + counts.column, counts.count, (len(bounds) + 1) * counts.columns)
    held_out = cells.reshape(-1, counts.columns)[: len(bounds)].astype(np.float64)
    groups, total, squares = (
        np.bincount(counts.column, counts.count**power, counts.columns).astype(np.float64) for power in range(3)
    )
    one_sided = (held_out == 0) | (held_out == total)
    lacking = (np.minimum(share, 1 - share) * groups >= 0.5) & one_sided
    if len(bounds) == 1:  # with several folds, one of them always holds out the only image of a class
        lacking |= (held_out == total) & (total > 0)
    deviation = np.abs(held_out - share * total) / np.sqrt(np.maximum(share * (1 - share) * squares, 1e-12))
    return SplitBalance(share, held_out, total, one_sided, lacking, deviation)


def find_balanced_seed(counts: ObjectCounts, bounds: Sequence[float]) -> int:
    """The first of NUM_SEEDS seeds that is balanced; if none is, the most balanced one."""
    candidates = []
    for seed in range(NUM_SEEDS):
        imbalance = evaluate_split(counts, seed, bounds).imbalance
        if imbalance <= BALANCED:
            return seed
        candidates.append((imbalance, seed))
    return min(candidates)[1]
