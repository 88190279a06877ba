"""A data set's classes."""

from collections.abc import Iterable

from pipeline.data.annotations import Category
from pipeline.formats.records import RawImage


def class_names(images: Iterable[RawImage]) -> set[str]:
    """What the objects are called."""
    return {item.name for image in images for item in image.objects if item.issue is None}


def number_categories(names: Iterable[str]) -> tuple[Category, ...]:
    """Categories 1, 2, 3, … in the order of their names, for formats that give classes no number."""
    return tuple(Category(number, name) for number, name in enumerate(names, 1))
