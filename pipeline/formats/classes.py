"""Class lists: of formats that have none of their own, and of data sets with several."""

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from pipeline.data.annotations import Category
from pipeline.formats.records import Issue, RawImage
from pipeline.formats.text import show_value


def collect_class_names(images: Iterable[RawImage]) -> set[str]:
    """The class names of all valid objects."""
    objects = (item for image in images for item in image.objects)
    return {item.class_name for item in objects if item.issue is None and not item.any_class}


def number_categories(names: Iterable[str]) -> tuple[Category, ...]:
    """Categories with ids 1, 2, 3, … in the order of `names`."""
    return tuple(Category(id, name) for id, name in enumerate(names, 1))


def join_class_lists(
    lists: Mapping[PurePosixPath, tuple[Category, ...]],
) -> tuple[tuple[Category, ...], tuple[tuple[str, Issue], ...]]:
    """All categories of a data set whose files have a list each: those of the longest list, then the missing ones.

    The same class may have another id in each file. A class that the longest list lacks keeps its id if it is free.

    Returns:
        The categories, and the issue of each file that lists a class which the longest list lacks, by its source.
    """
    longest = max(lists, key=lambda file: len(lists[file]))  # the first of several
    joined = {category.name: category for category in lists[longest]}
    listed, issues = set(joined), []
    for file, categories in lists.items():
        missing = [category for category in categories if category.name not in listed]
        ids = {category.id for category in joined.values()}
        for category in missing:
            if category.name not in joined:
                id = category.id if category.id not in ids else max(ids) + 1
                joined[category.name] = Category(id, category.name)
                ids.add(id)
        if missing:
            more = f" (and {len(missing) - 1:,} more)" if len(missing) > 1 else ""
            issues.append((str(file), _different_lists(f"{show_value(missing[0].name)!r}{more}", longest)))
    return tuple(joined.values()), tuple(issues)


def _different_lists(missing: str, longest: PurePosixPath) -> Issue:
    problem = f"its class {missing} is not in {longest}; objects of it in the images there would be background"
    return Issue("different_class_lists", problem)
