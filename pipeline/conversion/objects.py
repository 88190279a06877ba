"""Records to the unified format: boxes checked, classes looked up, ids kept where they can be."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.conversion.boxes import checked, righted
from pipeline.conversion.classes import unknown
from pipeline.conversion.issues import Ledger
from pipeline.conversion.match_images import Seen
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.formats.records import Box, Fault, RawImage, RawObject


@dataclass(frozen=True, slots=True)
class Kept:
    """An object that can be used."""

    raw: RawObject
    category_id: int
    box: Box


def annotation_set(split: str, seen: Sequence[Seen], categories: tuple[Category, ...], ledger: Ledger) -> AnnotationSet:
    """One split in the unified format; what is wrong with its objects goes to the ledger."""
    category_ids = {category.name: category.id for category in categories}
    numbers = _ids([item.raw for item in seen], split, ledger, least=0)
    images = tuple(
        Image(number, item.raw.file, item.look.width, item.look.height)
        for number, item in zip(numbers, seen, strict=True)
    )
    kept = [
        _kept(split, item.raw.objects, image, category_ids, ledger) for item, image in zip(seen, images, strict=True)
    ]
    ids = iter(_ids([item.raw for found in kept for item in found], split, ledger, least=1))
    annotations = tuple(
        Annotation(next(ids), image.id, item.category_id, item.box, _area(item), item.raw.iscrowd, item.raw.difficult)
        for image, found in zip(images, kept, strict=True)
        for item in found
    )
    return AnnotationSet(categories, images, annotations)


def _kept(
    split: str, objects: Sequence[RawObject], image: Image, category_ids: Mapping[str, int], ledger: Ledger
) -> list[Kept]:
    kept = []
    for raw in objects:
        fault = raw.fault or (None if raw.name in category_ids else unknown(raw.name, tuple(category_ids)))
        if fault is not None:
            ledger.act(fault, split, raw.where)
        elif (box := _box(split, raw, image, ledger)) is not None:
            kept.append(Kept(raw, category_ids[raw.name], box))
    if len({(item.category_id, item.box) for item in kept}) < len(kept):
        return _without_repeated(split, kept, ledger)
    return kept


def _box(split: str, raw: RawObject, image: Image, ledger: Ledger) -> Box | None:
    own = raw.box
    box, fault = checked(own, image.width, image.height)
    if fault is not None and fault.code == "swapped_corners":
        if ledger.act(fault, split, raw.where) == "skip":
            return None
        own = righted(own)
        box, fault = checked(own, image.width, image.height)
    if fault is not None:
        mend = ledger.act(fault, split, raw.where, repairable=box is not None)
        return box if mend == "repair" else None
    if box != own:
        ledger.note("boxes up to 1 px outside their image, clipped")
    return box


def _without_repeated(split: str, kept: Sequence[Kept], ledger: Ledger) -> list[Kept]:
    first: dict[tuple[int, Box], Kept] = {}
    answer = []
    for item in kept:
        twin = first.setdefault((item.category_id, item.box), item)
        fault = Fault("duplicate_box", f"its box and class {item.raw.name!r} are those of {twin.raw.where}")
        if twin is item or ledger.act(fault, split, item.raw.where) == "note":
            answer.append(item)
    return answer


def _area(item: Kept) -> float:
    area, own = item.box[2] * item.box[3], item.raw.area
    if own is None or not 0 <= own < math.inf:
        return area
    return own if item.box == item.raw.box else min(own, area)  # COCO's is the mask's


def _ids(records: Sequence[RawImage | RawObject], split: str, ledger: Ledger, *, least: int) -> list[int]:
    """The data set's own ids, where every record has one of its own, `least` or above; otherwise 1, 2, 3, …

    An annotation's must be 1 at least: pycocotools takes annotation 0 for "no match".
    """
    anew = list(range(1, len(records) + 1))
    own = [record.id for record in records]
    whole = [number for number in own if number is not None and number >= least]
    if len(set(whole)) == len(own):
        return whole
    if any(number is not None for number in own):  # formats without ids are right as they are
        _take_down(records, split, ledger, least)
    return anew


def _take_down(records: Sequence[RawImage | RawObject], split: str, ledger: Ledger, least: int) -> None:
    first: dict[int, RawImage | RawObject] = {}
    for record in records:
        if record.id is None:
            ledger.act(Fault("duplicate_id", "it has no whole number as its id"), split, record.where)
        elif record.id < least:
            ledger.act(Fault("duplicate_id", f"its id {record.id} is below {least}"), split, record.where)
        elif (other := first.setdefault(record.id, record)) is not record:
            # COCO's records are called by their ids: then both are called the same.
            twin = other.where if other.where != record.where else "another record"
            ledger.act(Fault("duplicate_id", f"its id {record.id} is also that of {twin}"), split, record.where)
