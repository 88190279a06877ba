"""Construction of annotations in the unified format from matched records: checked boxes, class ids, unique ids."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.conversion.boxes import check_box, unswap_corners
from pipeline.conversion.classes import unknown_class_issue
from pipeline.conversion.issues import IssueLog
from pipeline.conversion.match_images import MatchedRecord
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.formats.records import Box, Issue, RawImage, RawObject


@dataclass(frozen=True, slots=True)
class UsableObject:
    record: RawObject
    category_id: int
    box: Box


def build_annotation_set(
    split: str, matched: Sequence[MatchedRecord], categories: tuple[Category, ...], issue_log: IssueLog
) -> AnnotationSet:
    """One split in the unified format; issues of its objects are logged."""
    category_ids = {category.name: category.id for category in categories}
    image_ids = _assign_ids([item.record for item in matched], split, issue_log, minimum=0)
    images = tuple(
        Image(id, item.record.file, item.image_info.width, item.image_info.height)
        for id, item in zip(image_ids, matched, strict=True)
    )
    usable = [
        usable_objects(split, item.record.objects, image, category_ids, issue_log)
        for item, image in zip(matched, images, strict=True)
    ]
    # pycocotools reserves annotation id 0 for "no match".
    ids = iter(_assign_ids([item.record for objects in usable for item in objects], split, issue_log, minimum=1))
    annotations = tuple(
        make_annotation(next(ids), image.id, item)
        for image, objects in zip(images, usable, strict=True)
        for item in objects
    )
    return AnnotationSet(categories, images, annotations)


def make_annotation(id: int, image_id: int, item: UsableObject) -> Annotation:
    raw = item.record
    return Annotation(id, image_id, item.category_id, item.box, _area(item), raw.iscrowd, raw.difficult)


def usable_objects(
    split: str, objects: Sequence[RawObject], image: Image, category_ids: Mapping[str, int], issue_log: IssueLog
) -> list[UsableObject]:
    """The objects of an image that can be used, with checked classes and boxes; the others are logged as issues."""
    usable: list[UsableObject] = []
    for raw in objects:
        known = raw.any_class or raw.class_name in category_ids
        issue = raw.issue or (None if known else unknown_class_issue(raw.class_name, tuple(category_ids)))
        if issue is not None:
            issue_log.handle(issue, split, raw.source)
        elif (box := _usable_box(split, raw, image, issue_log)) is not None:
            ids = category_ids.values() if raw.any_class else [category_ids[raw.class_name]]
            usable.extend(UsableObject(raw, id, box) for id in ids)
    checked = [(item.category_id, item.box) for item in usable if not item.record.any_class]
    return _handle_duplicates(split, usable, issue_log) if len(set(checked)) < len(checked) else usable


def _usable_box(split: str, raw: RawObject, image: Image, issue_log: IssueLog) -> Box | None:
    original = raw.box
    box, issue = check_box(original, image.width, image.height)
    if issue is not None and issue.code == "swapped_corners":
        if issue_log.handle(issue, split, raw.source) == "skip":
            return None
        original = unswap_corners(original)
        box, issue = check_box(original, image.width, image.height)
    if issue is not None:
        fix = issue_log.handle(issue, split, raw.source, repairable=box is not None)
        return box if fix == "repair" else None
    if box != original:
        issue_log.add_note("boxes up to 1 px outside their image, clipped")
    return box


def _handle_duplicates(split: str, objects: Sequence[UsableObject], issue_log: IssueLog) -> list[UsableObject]:
    """The objects that are kept. Regions to ignore may be identical: nothing is learned from them."""
    originals: dict[tuple[int, Box], UsableObject] = {}
    kept = []
    for item in objects:
        original = item if item.record.any_class else originals.setdefault((item.category_id, item.box), item)
        message = f"box and class {item.record.class_name!r} are identical to {original.record.source}"
        if original is item or issue_log.handle(Issue("duplicate_box", message), split, item.record.source) == "note":
            kept.append(item)
    return kept


def _area(item: UsableObject) -> float:
    """The annotated area, which in COCO is the mask's, or that of the box; never more than that of a clipped box."""
    box_area, annotated = item.box[2] * item.box[3], item.record.area
    if annotated is None or not 0 <= annotated < math.inf:
        return box_area
    return annotated if item.box == item.record.box else min(annotated, box_area)


def _assign_ids(records: Sequence[RawImage | RawObject], split: str, issue_log: IssueLog, *, minimum: int) -> list[int]:
    """The records' own ids if all are unique integers of at least `minimum`; otherwise 1, 2, 3, …"""
    ids = [record.id for record in records]
    valid = [id for id in ids if id is not None and id >= minimum]
    if len(set(valid)) == len(ids):
        return valid
    if any(id is not None for id in ids):  # a format without ids has no issue
        _log_invalid_ids(records, split, issue_log, minimum)
    return list(range(1, len(records) + 1))


def _log_invalid_ids(records: Sequence[RawImage | RawObject], split: str, issue_log: IssueLog, minimum: int) -> None:
    by_id: dict[int, RawImage | RawObject] = {}
    for record in records:
        if record.id is None:
            message = "has no integer id"
        elif record.id < minimum:
            message = f"id {record.id} is below {minimum}"
        elif (other := by_id.setdefault(record.id, record)) is not record:
            # The source of a COCO record is its id, so two records of one id may have the same source.
            user = other.source if other.source != record.source else "another record"
            message = f"id {record.id} is already used by {user}"
        else:
            continue
        issue_log.handle(Issue("duplicate_id", message), split, record.source)
