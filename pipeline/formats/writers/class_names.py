"""Class names as text files hold them."""

from dataclasses import replace

from pipeline.data.annotations import AnnotationSet
from pipeline.errors import PipelineError


def trim_class_names(splits: dict[str, AnnotationSet]) -> tuple[dict[str, AnnotationSet], int]:
    """The splits with no white space at the ends of class names, which readers drop; and how many names had some.

    Raises:
        PipelineError: two names would be the same then, or one empty.
    """
    own = next(iter(splits.values())).categories
    names = [category.name.strip() for category in own]
    for category, name in zip(own, names, strict=True):
        if not name or names.count(name) > 1:
            raise PipelineError(f"class name {category.name!r}: empty, or another's, but for white space; rename it")
    changed = tuple(replace(category, name=name) for category, name in zip(own, names, strict=True))
    count = sum(category.name != name for category, name in zip(own, names, strict=True))
    return {split: replace(found, categories=changed) for split, found in splits.items()}, count
