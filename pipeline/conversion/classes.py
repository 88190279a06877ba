"""The classes of a data set: which ones to keep, and checks for unknown, unused and similarly named classes."""

import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import combinations

import msgspec

from pipeline.conversion.issues import IssueLog
from pipeline.data.annotations import AnnotationSet, Category
from pipeline.errors import PipelineError
from pipeline.formats.records import Issue, RawDataset, RawObject, RawSplit
from pipeline.params import ClassMapping

SOURCE = "classes"  # of an issue that no record has
# Shorter names often differ in one letter and mean different things: car and cat.
_MIN_LENGTH = 5


def select_classes(dataset: RawDataset, chosen: Sequence[str] | ClassMapping | None) -> RawDataset:
    """The data set with the categories that `convert.classes` names, in that order; all of them if `chosen` is None.

    A mapping also gives the objects their new class names. The id of a new class is that of the first one in its list.
    Objects of other classes keep their names, which are then unknown.

    Raises:
        PipelineError: The data set has no class of a name, or the mapping is ambiguous.
    """
    if chosen is None:
        return dataset
    if not isinstance(chosen, dict):
        return replace(dataset, categories=_find_categories(dataset.categories, chosen))
    found = {new: _find_categories(dataset.categories, names) for new, names in chosen.items()}
    renamed = {category.name: new for new, categories in found.items() for category in categories}
    _check_mapping(dataset, chosen, [category.name for categories in found.values() for category in categories])
    categories = tuple(Category(found[new][0].id, new) for new in chosen)
    splits = {name: _rename_classes(split, renamed) for name, split in dataset.splits.items()}
    return replace(dataset, categories=categories, splits=splits)


def _check_mapping(dataset: RawDataset, chosen: ClassMapping, sources: Sequence[str]) -> None:
    if repeated := next((name for name in sources if sources.count(name) > 1), None):
        raise PipelineError(f"convert.classes: {repeated!r} is listed twice; give it to one class")
    for category in dataset.categories:
        if category.name in chosen and category.name not in sources:
            raise PipelineError(
                f"convert.classes: the data set has a class {category.name!r} of its own, which is not listed; add it "
                "to a list, or choose another name"
            )


def _rename_classes(split: RawSplit, renamed: Mapping[str, str]) -> RawSplit:
    def rename(objects: tuple[RawObject, ...]) -> tuple[RawObject, ...]:
        return tuple(
            msgspec.structs.replace(item, class_name=renamed[item.class_name]) if item.class_name in renamed else item
            for item in objects
        )

    images = (msgspec.structs.replace(image, objects=rename(image.objects)) for image in split.images)
    return RawSplit(tuple(images), rename(split.orphan_objects))


def _find_categories(categories: Sequence[Category], names: Sequence[str]) -> tuple[Category, ...]:
    """The categories of these names.

    Raises:
        PipelineError: The data set has no class of a name.
    """
    by_name = {category.name: category for category in categories}
    # é may be one character or two.
    by_form = {unicodedata.normalize("NFC", name): category for name, category in by_name.items()}
    for name in names:
        if unicodedata.normalize("NFC", name) not in by_form:
            known = ", ".join(by_name) or "none"
            raise PipelineError(f"convert.classes: the data set has no class {name!r}; it has {known}")
    return tuple(by_name.get(name) or by_form[unicodedata.normalize("NFC", name)] for name in names)


@lru_cache(maxsize=4096)  # a class that is left out on purpose may have thousands of objects
def unknown_class_issue(name: str, known: tuple[str, ...]) -> Issue:
    """The issue of an object whose class is not one of those that are kept."""
    similar = difflib.get_close_matches(name, known, n=1)
    suggestion = f"; did you mean {similar[0]!r}?" if similar else ""
    return Issue("unknown_class", f"class {name!r} is not in convert.classes ({', '.join(known)}){suggestion}")


def check_classes(categories: Sequence[Category], splits: Iterable[AnnotationSet], issue_log: IssueLog) -> None:
    """Logs the classes that have no object in any split, and pairs of classes with similar names."""
    used = {annotation.category_id for split in splits for annotation in split.objects}
    for category in categories:
        if category.id not in used:
            issue_log.handle(Issue("unused_class", f"{category.name!r} has no objects"), None, SOURCE)
    for first, second in similar_names([category.name for category in categories]):
        message = f"{first!r} and {second!r} have similar names; are they the same class?"
        issue_log.handle(Issue("similar_class_names", message), None, SOURCE)


def similar_names(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names that differ only in case, accents, punctuation, spaces, a plural's s or (if long) in a letter."""
    normalized = [_normalize(name) for name in names]
    by_variant: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(normalized):
        for variant in _variants(name):
            by_variant[variant].append(index)
    # Only names with a common variant are compared: a thousand classes have half a million pairs.
    pairs = {pair for indices in by_variant.values() for pair in combinations(indices, 2)}
    for first, second in sorted(pairs):
        a, b = normalized[first], normalized[second]
        if _equal_but_plural(a, b) or _differ_in_one_letter(a, b):
            yield names[first], names[second]


def _normalize(name: str) -> str:
    """The letters and digits of a name without case and accents; the name itself if it has none."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", name.casefold()) if letter.isalnum()) or name


def _equal_but_plural(a: str, b: str) -> bool:
    return a in (b, f"{b}s") or b == f"{a}s"


def _variants(name: str) -> set[str]:
    """The name, its singular, and, if it is long, the name without each of its letters.

    Two names that differ in one letter have a variant in common.
    """
    letters = (index for index, letter in enumerate(name) if letter.isalpha() and len(name) >= _MIN_LENGTH)
    return {name, name.removesuffix("s"), *(name[:index] + name[index + 1 :] for index in letters)}


def _differ_in_one_letter(a: str, b: str) -> bool:
    """Whether one letter is changed, added or missing. Digits don't count: `class1` and `class2` are two classes."""
    if abs(len(a) - len(b)) > 1 or max(len(a), len(b)) < _MIN_LENGTH:
        return False
    start = _common_prefix_length(a, b)
    end = _common_prefix_length(a[start:][::-1], b[start:][::-1])
    rest = a[start : len(a) - end], b[start : len(b) - end]
    return max(map(len, rest)) == 1 and all(part.isalpha() for part in rest if part)


def _common_prefix_length(a: str, b: str) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (left, right) in pairs if left != right), min(len(a), len(b)))
