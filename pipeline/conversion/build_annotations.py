"""Records to the unified format: boxes checked, classes looked up, ids kept where they can be."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.conversion.boxes import check_box, unswap_corners
from pipeline.conversion.classes import unknown
from pipeline.conversion.issues import IssueLog
from pipeline.conversion.match_images import MatchedRecord
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.formats.records import Box, Issue, RawImage, RawObject


@dataclass(frozen=True, slots=True)
class UsableObject:
    """An object that can be used."""

    raw: RawObject
    category_id: int
    box: Box


def make_annotation_set(
    split: str, seen: Sequence[MatchedRecord], categories: tuple[Category, ...], issue_log: IssueLog
) -> AnnotationSet:
    """One split in the unified format; what is wrong with its objects goes to the ledger."""
    category_ids = {category.name: category.id for category in categories}
    numbers = _ids([item.raw for item in seen], split, issue_log, least=0)
    images = tuple(
        Image(number, item.raw.file, item.image_info.width, item.image_info.height)
        for number, item in zip(numbers, seen, strict=True)
    )
    kept = [
        _kept(split, item.raw.objects, image, category_ids, issue_log) for item, image in zip(seen, images, strict=True)
    ]
    ids = iter(_ids([item.raw for found in kept for item in found], split, issue_log, least=1))
    annotations = tuple(
        Annotation(next(ids), image.id, item.category_id, item.box, _area(item), item.raw.iscrowd, item.raw.difficult)
        for image, found in zip(images, kept, strict=True)
        for item in found
    )
    return AnnotationSet(categories, images, annotations)


def _kept(
    split: str, objects: Sequence[RawObject], image: Image, category_ids: Mapping[str, int], issue_log: IssueLog
) -> list[UsableObject]:
    kept = []
    for raw in objects:
        issue = raw.issue or (None if raw.name in category_ids else unknown(raw.name, tuple(category_ids)))
        if issue is not None:
            issue_log.act(issue, split, raw.source)
        elif (box := _box(split, raw, image, issue_log)) is not None:
            kept.append(UsableObject(raw, category_ids[raw.name], box))
    if len({(item.category_id, item.box) for item in kept}) < len(kept):
        return _without_repeated(split, kept, issue_log)
    return kept


def _box(split: str, raw: RawObject, image: Image, issue_log: IssueLog) -> Box | None:
    own = raw.box
    box, issue = check_box(own, image.width, image.height)
    if issue is not None and issue.code == "swapped_corners":
        if issue_log.act(issue, split, raw.source) == "skip":
            return None
        own = unswap_corners(own)
        box, issue = check_box(own, image.width, image.height)
    if issue is not None:
        fix = issue_log.act(issue, split, raw.source, repairable=box is not None)
        return box if fix == "repair" else None
    if box != own:
        issue_log.note("boxes up to 1 px outside their image, clipped")
    return box


def _without_repeated(split: str, kept: Sequence[UsableObject], issue_log: IssueLog) -> list[UsableObject]:
    first: dict[tuple[int, Box], UsableObject] = {}
    answer = []
    for item in kept:
        twin = first.setdefault((item.category_id, item.box), item)
        issue = Issue("duplicate_box", f"its box and class {item.raw.name!r} are those of {twin.raw.source}")
        if twin is item or issue_log.act(issue, split, item.raw.source) == "note":
            answer.append(item)
    return answer


def _area(item: UsableObject) -> float:
    area, own = item.box[2] * item.box[3], item.raw.area
    if own is None or not 0 <= own < math.inf:
        return area
    return own if item.box == item.raw.box else min(own, area)  # COCO's is the mask's


def _ids(records: Sequence[RawImage | RawObject], split: str, issue_log: IssueLog, *, least: int) -> list[int]:
    """The data set's own ids, where every record has one of its own, `least` or above; otherwise 1, 2, 3, …

    An annotation's must be 1 at least: pycocotools takes annotation 0 for "no match".
    """
    anew = list(range(1, len(records) + 1))
    own = [record.id for record in records]
    whole = [number for number in own if number is not None and number >= least]
    if len(set(whole)) == len(own):
        return whole
    if any(number is not None for number in own):  # formats without ids are right as they are
        _take_down(records, split, issue_log, least)
    return anew


def _take_down(records: Sequence[RawImage | RawObject], split: str, issue_log: IssueLog, least: int) -> None:
    first: dict[int, RawImage | RawObject] = {}
    for record in records:
        if record.id is None:
            issue_log.act(Issue("duplicate_id", "it has no whole number as its id"), split, record.source)
        elif record.id < least:
            issue_log.act(Issue("duplicate_id", f"its id {record.id} is below {least}"), split, record.source)
        elif (other := first.setdefault(record.id, record)) is not record:
            # COCO's records are called by their ids: then both are called the same.
            twin = other.source if other.source != record.source else "another record"
            issue_log.act(Issue("duplicate_id", f"its id {record.id} is also that of {twin}"), split, record.source)
