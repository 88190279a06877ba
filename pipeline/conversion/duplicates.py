"""Images that are in two splits, or in one twice: the same bytes, or the same picture saved anew."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.conversion.image_info import Mode
from pipeline.conversion.issues import SKIPPED_OBJECTS, IssueLog
from pipeline.conversion.match_images import MatchedRecord
from pipeline.conversion.splits import LATER_SPLITS
from pipeline.formats.records import Issue

# Bits of 64 in which two perceptual hashes may differ and still be the same picture.
NEAR = 4


def remove_duplicates(
    seen: Mapping[str, list[MatchedRecord]], mode: Mode, issue_log: IssueLog
) -> dict[str, list[MatchedRecord]]:
    """The splits, without what is in one twice or in a later one too, where that is asked for."""
    found = {split: _without_repeated(split, items, issue_log) for split, items in seen.items()}
    for split in (split for split in LATER_SPLITS if split in found):
        judged = [(later, item) for later in LATER_SPLITS[split] for item in found.get(later, [])]
        found[split] = _without_equal(split, found[split], judged, issue_log)
        found[split] = _without_alike(split, found[split], judged, issue_log)
    if mode == "trust":
        issue_log.note(
            "splits not searched for equal images, only for equal paths: convert.image_check is trust", len(seen)
        )
    if mode != "decode":
        issue_log.note(f"splits not searched for images that look alike: convert.image_check is {mode}", len(seen))
    return found


def _without_repeated(split: str, items: Sequence[MatchedRecord], issue_log: IssueLog) -> list[MatchedRecord]:
    first: dict[str, MatchedRecord] = {}
    kept = []
    for item in items:
        twin = first.setdefault(item.image_info.digest, item)
        if twin is not item:
            issue = Issue("duplicate_image", f"its image {item.raw.file} is, byte for byte, {twin.raw.file}")
            if issue_log.act(issue, split, item.raw.source) == "skip":
                issue_log.note(SKIPPED_OBJECTS, len(item.raw.objects))
                continue
        kept.append(item)
    return kept


def _without_equal(
    split: str, items: Sequence[MatchedRecord], judged: Sequence[tuple[str, MatchedRecord]], issue_log: IssueLog
) -> list[MatchedRecord]:
    by_digest = {item.image_info.digest: (later, item) for later, item in reversed(judged)}
    kept = []
    for item in items:
        if item.image_info.digest in by_digest:
            later, twin = by_digest[item.image_info.digest]
            issue = Issue("leak", f"its image {item.raw.file} is, byte for byte, {twin.raw.file} of {later}")
            if issue_log.act(issue, split, item.raw.source) == "repair":
                continue
        kept.append(item)
    return kept


def _without_alike(
    split: str, items: Sequence[MatchedRecord], judged: Sequence[tuple[str, MatchedRecord]], issue_log: IssueLog
) -> list[MatchedRecord]:
    known = [(later, item) for later, item in judged if item.image_info.alike is not None]
    equal = {item.image_info.digest for _, item in known}
    asked = [item for item in items if item.image_info.alike is not None and item.image_info.digest not in equal]
    twins = nearest_hashes(_hashes(asked), _hashes([item for _, item in known]))
    gone = set()
    for number, (other, distance) in twins.items():
        item, (later, twin) = asked[number], known[other]
        looks = f"its image {item.raw.file} looks like {twin.raw.file} of {later} ({distance} of 64 bits differ)"
        if issue_log.act(Issue("near_duplicate_leak", looks), split, item.raw.source) == "repair":
            gone.add(item.raw.file)
    return [item for item in items if item.raw.file not in gone]


def _hashes(seen: Sequence[MatchedRecord]) -> NDArray[np.uint64]:
    return np.array([item.image_info.alike for item in seen], dtype=np.uint64)


def nearest_hashes(
    asked: NDArray[np.uint64], known: NDArray[np.uint64], near: int = NEAR
) -> dict[int, tuple[int, int]]:
    """For each hash of `asked` that has one within `near` bits in `known`: the nearest's index there, and the distance.

    Of equally near ones the first counts. Hashes within n bits agree in at least one of n + 1 bands: only those are
    compared, so the cost grows with what is alike and not with the product of both lengths.
    """
    unique, first = np.unique(known, return_index=True)  # flat pictures share one hash: compare it once
    hashes, own = np.unique(asked, return_inverse=True)
    pairs = [_pairs(hashes, unique, shift, width) for shift, width in _bands(near + 1)]
    left, right = np.concatenate(pairs, axis=1) if len(hashes) and len(unique) else np.empty((2, 0), dtype=np.int64)
    distance = np.bitwise_count(hashes[left] ^ unique[right])
    left, right, distance = (found[distance <= near] for found in (left, right, distance))
    best: dict[int, tuple[int, int]] = {}
    for at in np.lexsort((first[right], distance)).tolist():
        best.setdefault(int(left[at]), (int(first[right[at]]), int(distance[at])))
    return {number: best[at] for number, at in enumerate(own.tolist()) if at in best}


def _bands(number: int) -> list[tuple[int, int]]:
    edges = [64 * band // number for band in range(number + 1)]
    return [(low, high - low) for low, high in pairwise(edges)]


def _pairs(one: NDArray[np.uint64], other: NDArray[np.uint64], shift: int, width: int) -> NDArray[np.int64]:
    """Indices [2, pairs] of those that agree in `width` bits from `shift` on."""
    mask = np.uint64((1 << width) - 1)
    ours, theirs = (one >> np.uint64(shift)) & mask, (other >> np.uint64(shift)) & mask
    order = np.argsort(theirs, kind="stable")
    low, high = (np.searchsorted(theirs[order], ours, side=side) for side in ("left", "right"))
    number = high - low
    left = np.repeat(np.arange(len(one)), number)
    right = order[np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number) + np.repeat(low, number)]
    return np.stack([left, right])
