"""What of the unified format others have no place for, counted."""

from collections import Counter
from collections.abc import Iterable

from pipeline.data.annotations import Annotation, AnnotationSet


def marks(split: AnnotationSet) -> Counter[str]:
    """Ids other than 1, 2, 3, … and areas other than the box's."""
    return Counter(
        {
            "image ids": _own(image.id for image in split.images),
            "object ids": _own(item.id for item in split.annotations),
            "areas of masks": sum(not _is_box_area(item) for item in split.annotations),
        }
    )


def category_ids(splits: Iterable[AnnotationSet], first: int) -> int:
    """How many differ from `first`, `first` + 1, …; the splits have the same."""
    return max((_own((category.id for category in split.categories), first) for split in splits), default=0)


def _own(ids: Iterable[int], first: int = 1) -> int:
    return sum(own != number for number, own in enumerate(ids, first))


def _is_box_area(item: Annotation) -> bool:
    return abs(item.area - item.bbox[2] * item.bbox[3]) <= 1e-6 * item.area


def unused_classes(splits: Iterable[AnnotationSet]) -> int:
    listed, used = set(), set()
    for split in splits:
        listed |= {category.id for category in split.categories}
        used |= {item.category_id for item in split.annotations}
    return len(listed - used)
