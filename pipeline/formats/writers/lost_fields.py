"""Counts of fields of the unified format that other formats can't hold, by their names in plural."""

from collections import Counter
from collections.abc import Iterable

from pipeline.data.annotations import Annotation, AnnotationSet


def count_lost_fields(split: AnnotationSet) -> Counter[str]:
    """Ids other than 1, 2, 3, … and areas other than the box's."""
    return Counter(
        {
            "image ids": _count_changed_ids(image.id for image in split.images),
            "object ids": _count_changed_ids(annotation.id for annotation in split.annotations),
            "mask areas": sum(not _has_box_area(annotation) for annotation in split.annotations),
        }
    )


def count_lost_category_ids(splits: Iterable[AnnotationSet], first: int) -> int:
    """The number of category ids that differ from `first`, `first` + 1, …; all splits have the same."""
    return max(
        (_count_changed_ids((category.id for category in split.categories), first) for split in splits), default=0
    )


def _count_changed_ids(ids: Iterable[int], first: int = 1) -> int:
    return sum(id != number for number, id in enumerate(ids, first))


def _has_box_area(annotation: Annotation) -> bool:
    return abs(annotation.area - annotation.bbox[2] * annotation.bbox[3]) <= 1e-6 * annotation.area


def count_unused_classes(splits: Iterable[AnnotationSet]) -> int:
    listed, used = set(), set()
    for split in splits:
        listed |= {category.id for category in split.categories}
        used |= {annotation.category_id for annotation in split.annotations}
    return len(listed - used)
