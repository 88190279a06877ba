"""Search for images that occur twice in a split or in two splits: identical files, or the same image saved again."""

from collections.abc import Mapping, Sequence
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

Hashes = NDArray[np.uint64]


def remove_duplicates(
    splits: Mapping[str, list[MatchedRecord]], image_check: ImageCheck, issue_log: IssueLog
) -> dict[str, list[MatchedRecord]]:
    """Logs duplicates within a split and leaks into later splits; removes the images for which a check says so."""
    result = {split: _handle_repeated(split, items, issue_log) for split, items in splits.items()}
    for split in (split for split in LATER_SPLITS if split in result):
        later = [(name, item) for name in LATER_SPLITS[split] for item in result.get(name, [])]
        result[split] = _handle_leaks(split, result[split], later, issue_log)
        result[split] = _handle_near_duplicates(split, result[split], later, issue_log)
    if image_check == "trust":
        issue_log.add_note(
            "splits searched for identical paths, not for identical images: convert.image_check is trust", len(splits)
        )
    if image_check != "decode":
        issue_log.add_note(f"splits not searched for similar images: convert.image_check is {image_check}", len(splits))
    return result


def _handle_repeated(split: str, items: Sequence[MatchedRecord], issue_log: IssueLog) -> list[MatchedRecord]:
    first_of: dict[str, MatchedRecord] = {}
    kept = []
    for item in items:
        first = first_of.setdefault(item.image_info.digest, item)
        if first is not item:
            issue = Issue("duplicate_image", f"image {item.record.file} is identical to {first.record.file}")
            if issue_log.handle(issue, split, item.record.source) == "skip":
                issue_log.add_note(SKIPPED_OBJECTS, len(item.record.objects))
                continue
        kept.append(item)
    return kept


def _handle_leaks(
    split: str, items: Sequence[MatchedRecord], later: Sequence[tuple[str, MatchedRecord]], issue_log: IssueLog
) -> list[MatchedRecord]:
    by_digest = {item.image_info.digest: (name, item) for name, item in reversed(later)}
    kept = []
    for item in items:
        if item.image_info.digest in by_digest:
            name, other = by_digest[item.image_info.digest]
            issue = Issue("leak", f"image {item.record.file} is identical to {other.record.file} of {name}")
            if issue_log.handle(issue, split, item.record.source) == "repair":
                continue
        kept.append(item)
    return kept


def _handle_near_duplicates(
    split: str, items: Sequence[MatchedRecord], later: Sequence[tuple[str, MatchedRecord]], issue_log: IssueLog
) -> list[MatchedRecord]:
    later = [(name, item) for name, item in later if item.image_info.perceptual_hash is not None]
    digests = {item.image_info.digest for _, item in later}
    candidates = [
        item for item in items if item.image_info.perceptual_hash is not None and item.image_info.digest not in digests
    ]
    nearest = nearest_hashes(_hashes(candidates), _hashes([item for _, item in later]))
    removed = set()
    for index, (other_index, distance) in nearest.items():
        file, (name, other) = candidates[index].record.file, later[other_index]
        message = f"image {file} looks like {other.record.file} of {name} ({distance} of 64 bits differ)"
        source = candidates[index].record.source
        if issue_log.handle(Issue("near_duplicate_leak", message), split, source) == "repair":
            removed.add(file)
    return [item for item in items if item.record.file not in removed]


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
