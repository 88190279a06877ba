"""Class names for formats whose readers strip white space."""

from dataclasses import replace

from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError


def strip_class_names(splits: dict[str, AnnotationSet]) -> tuple[dict[str, AnnotationSet], int]:
    """The splits with stripped class names, and the number of names that changed.

    Raises:
        PipelineError: A stripped name is empty or that of another class.
    """
    categories = next(iter(splits.values())).categories
    names = [category.name.strip() for category in categories]
    for category, name in zip(categories, names, strict=True):
        if not name or names.count(name) > 1:
            raise PipelineError(
                f"class name {category.name!r}: empty or used twice without the surrounding white space; rename it"
            )
    stripped = tuple(replace(category, name=name) for category, name in zip(categories, names, strict=True))
    changed = sum(category.name != name for category, name in zip(categories, names, strict=True))
    return {name: replace(split, categories=stripped) for name, split in splits.items()}, changed
