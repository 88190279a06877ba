"""Class lists of formats that have none of their own."""

from collections.abc import Iterable

from pipeline.data.annotations import Category
from pipeline.formats.records import RawImage


def collect_class_names(images: Iterable[RawImage]) -> set[str]:
    """The class names of all valid objects."""
    objects = (item for image in images for item in image.objects)
    return {item.class_name for item in objects if item.issue is None and not item.any_class}


def number_categories(names: Iterable[str]) -> tuple[Category, ...]:
    """Categories with ids 1, 2, 3, … in the order of `names`."""
    return tuple(Category(id, name) for id, name in enumerate(names, 1))
