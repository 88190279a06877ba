"""Search for images that occur twice in a split or in two splits: identical files, or the same image saved again."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.conversion.image_info import ImageCheck
from pipeline.conversion.issues import SKIPPED_OBJECTS, IssueLog
from pipeline.conversion.match_images import MatchedRecord
from pipeline.conversion.splits import LATER_SPLITS
from pipeline.formats.records import Issue

# Two perceptual hashes of 64 bits that differ in no more bits than this belong to the same image.
MAX_DISTANCE = 4

# The actions of these checks that remove the image; the others keep it.
_REMOVING_ACTIONS = {"duplicate_image": "skip", "leak": "repair", "near_duplicate_leak": "repair"}

Hashes = NDArray[np.uint64]


def remove_duplicates(
    splits: Mapping[str, list[MatchedRecord]], image_check: ImageCheck, issue_log: IssueLog
) -> dict[str, list[MatchedRecord]]:
    """Logs duplicates within a split and leaks into later splits; removes the images for which a check says so."""
    result = {split: _remove(split, items, _repeated_images(items), issue_log) for split, items in splits.items()}
    issue_log.add_note(SKIPPED_OBJECTS, _count_objects(splits) - _count_objects(result))
    for split in (split for split in LATER_SPLITS if split in result):
        later = [(name, item) for name in LATER_SPLITS[split] for item in result.get(name, [])]
        for find_issues in (_leaks, _near_duplicates):
            result[split] = _remove(split, result[split], find_issues(result[split], later), issue_log)
    if image_check == "trust":
        issue_log.add_note(
            "splits searched for identical paths, not for identical images: convert.image_check is trust", len(splits)
        )
    if image_check != "decode":
        issue_log.add_note(f"splits not searched for similar images: convert.image_check is {image_check}", len(splits))
    return result


def _count_objects(splits: Mapping[str, Sequence[MatchedRecord]]) -> int:
    return sum(len(item.record.objects) for items in splits.values() for item in items)


def _remove(
    split: str, items: Sequence[MatchedRecord], issues: Iterable[Issue | None], issue_log: IssueLog
) -> list[MatchedRecord]:
    """Logs the issue of each image, if it has one, and removes the images whose action says so."""
    return [
        item
        for item, issue in zip(items, issues, strict=True)
        if issue is None or issue_log.handle(issue, split, item.record.source) != _REMOVING_ACTIONS[issue.code]
    ]


def _repeated_images(items: Sequence[MatchedRecord]) -> Iterator[Issue | None]:
    first_of: dict[str, MatchedRecord] = {}
    for item in items:
        first = first_of.setdefault(item.image_info.digest, item)
        message = f"image {item.record.file} is identical to {first.record.file}"
        yield Issue("duplicate_image", message) if first is not item else None


def _leaks(items: Sequence[MatchedRecord], later: Sequence[tuple[str, MatchedRecord]]) -> Iterator[Issue | None]:
    by_digest = {item.image_info.digest: (name, item) for name, item in reversed(later)}
    for item in items:
        name, other = by_digest.get(item.image_info.digest, (None, item))
        message = f"image {item.record.file} is identical to {other.record.file} of {name}"
        yield Issue("leak", message) if name else None


def _near_duplicates(
    items: Sequence[MatchedRecord], later: Sequence[tuple[str, MatchedRecord]]
) -> Iterator[Issue | None]:
    """Images that look like one of a later split, but are identical to none."""
    later = [(name, item) for name, item in later if item.image_info.perceptual_hash is not None]
    digests = {item.image_info.digest for _, item in later}
    candidates = [
        index
        for index, item in enumerate(items)
        if item.image_info.perceptual_hash is not None and item.image_info.digest not in digests
    ]
    nearest = nearest_hashes(_hashes([items[index] for index in candidates]), _hashes([item for _, item in later]))
    similar = {candidates[index]: match for index, match in nearest.items()}
    for index, item in enumerate(items):
        if index not in similar:
            yield None
            continue
        other_index, distance = similar[index]
        name, other = later[other_index]
        message = f"image {item.record.file} looks like {other.record.file} of {name} ({distance} of 64 bits differ)"
        yield Issue("near_duplicate_leak", message)


def _hashes(items: Sequence[MatchedRecord]) -> Hashes:
    return np.array([item.image_info.perceptual_hash for item in items], dtype=np.uint64)


def nearest_hashes(queries: Hashes, known: Hashes, max_distance: int = MAX_DISTANCE) -> dict[int, tuple[int, int]]:
    """The nearest hash in `known` for each query that has one within `max_distance` bits.

    Two hashes within n bits agree in at least one of n + 1 bands of bits. Only hashes that agree in a band are
    compared, so the cost doesn't grow with the product of both lengths.

    Returns:
        By index of the query: the index in `known` (the first of equally near hashes) and the Hamming distance.
    """
    # Hashes are compared once, even if many images have the same one.
    unique_known, first_index = np.unique(known, return_index=True)
    unique_queries, query_of = np.unique(queries, return_inverse=True)
    pairs = [_pairs_in_band(unique_queries, unique_known, shift, width) for shift, width in _bands(max_distance + 1)]
    left, right = np.concatenate(pairs, axis=1)
    distance = np.bitwise_count(unique_queries[left] ^ unique_known[right])
    left, right, distance = (values[distance <= max_distance] for values in (left, right, distance))
    nearest: dict[int, tuple[int, int]] = {}
    for pair in np.lexsort((first_index[right], distance)).tolist():
        nearest.setdefault(int(left[pair]), (int(first_index[right[pair]]), int(distance[pair])))
    return {index: nearest[query] for index, query in enumerate(query_of.tolist()) if query in nearest}


def _bands(number: int) -> list[tuple[int, int]]:
    """64 bits divided into `number` bands: the first bit and the width of each."""
    edges = [64 * band // number for band in range(number + 1)]
    return [(low, high - low) for low, high in pairwise(edges)]


def _pairs_in_band(queries: Hashes, known: Hashes, shift: int, width: int) -> NDArray[np.int64]:
    """Indices [2, pairs] of the queries and known hashes that agree in the `width` bits from `shift` on."""
    mask = np.uint64((1 << width) - 1)
    query_bits, known_bits = (queries >> np.uint64(shift)) & mask, (known >> np.uint64(shift)) & mask
    order = np.argsort(known_bits, kind="stable")
    low, high = (np.searchsorted(known_bits[order], query_bits, side=side) for side in ("left", "right"))
    matches = high - low
    left = np.repeat(np.arange(len(queries)), matches)
    right = order[np.arange(matches.sum()) - np.repeat(np.cumsum(matches) - matches, matches) + np.repeat(low, matches)]
    return np.stack([left, right])
