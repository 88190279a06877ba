"""The classes of a data set: which are kept, which are never seen, which are written in two ways."""

import difflib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import combinations

from pipeline.conversion.issues import IssueLog
from pipeline.data.annotations import AnnotationSet, Category
from pipeline.errors import PipelineError
from pipeline.formats.records import Issue

WHERE = "classes"
# Shorter names are too often a letter apart: car and cat.
_LONG = 5


def chosen(own: Sequence[Category], wanted: Sequence[str] | None) -> tuple[Category, ...]:
    """The categories to keep: all, or those named in `convert.classes`, in that order, with the data set's ids.

    Raises:
        PipelineError: a name that the data set doesn't have.
    """
    if wanted is None:
        return tuple(own)
    by_name = {category.name: category for category in own}
    for name in wanted:
        if name not in by_name:
            known = ", ".join(by_name) or "none"
            raise PipelineError(f"convert.classes: {name!r} is no class of the data set; it has {known}")
    return tuple(by_name[name] for name in wanted)


@lru_cache(maxsize=4096)  # a class that is left out on purpose has thousands of objects
def unknown(name: str, known: tuple[str, ...]) -> Issue:
    """The fault of an object whose class is in no list."""
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"; is it {near[0]!r}?" if near else ""
    return Issue("unknown_class", f"its class {name!r} is not in convert.classes: {', '.join(known)}{meant}")


def check(categories: Sequence[Category], splits: Iterable[AnnotationSet], issue_log: IssueLog) -> None:
    """Takes down the classes without an object in any split, and those whose names nearly equal another's."""
    used = {item.category_id for found in splits for item in found.annotations}
    for category in categories:
        if category.id not in used:
            issue_log.act(Issue("unused_class", f"{category.name!r} has not a single object"), None, WHERE)
    for one, other in alike([category.name for category in categories]):
        issue_log.act(
            Issue("similar_class_names", f"{one!r} and {other!r} are nearly equal; are they one?"), None, WHERE
        )


def alike(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Pairs of names that differ in case, accents, blanks and the like or a plural's s; long ones, in a letter."""
    plain = [_plain(name) for name in names]
    near: dict[str, list[int]] = defaultdict(list)
    for number, name in enumerate(plain):
        for variant in _variants(name):
            near[variant].append(number)
    # Only names with a variant in common are compared: a thousand classes have half a million pairs.
    pairs = {pair for numbers in near.values() for pair in combinations(numbers, 2)}
    for one, other in sorted(pairs):
        if _one(plain[one], plain[other]) or _letter_apart(plain[one], plain[other]):
            yield names[one], names[other]


def _plain(name: str) -> str:
    """Letters and digits without case and accents; a name of nothing else, as it is."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", name.casefold()) if letter.isalnum()) or name


def _one(one: str, other: str) -> bool:
    """Whether they are equal, or one is the other's plural."""
    return one in (other, f"{other}s") or other == f"{one}s"


def _variants(name: str) -> set[str]:
    """The name, as a singular too, and a long one without each of its letters: names a letter apart share one."""
    letters = (place for place, letter in enumerate(name) if letter.isalpha() and len(name) >= _LONG)
    return {name, name.removesuffix("s"), *(name[:place] + name[place + 1 :] for place in letters)}


def _letter_apart(one: str, other: str) -> bool:
    """Whether one letter is changed, added or missing; a digit isn't one, since `class1` and `class2` are two."""
    if abs(len(one) - len(other)) > 1 or max(len(one), len(other)) < _LONG:
        return False
    start = _same(one, other)
    end = _same(one[start:][::-1], other[start:][::-1])
    rest = one[start : len(one) - end], other[start : len(other) - end]
    return max(map(len, rest)) == 1 and all(part.isalpha() for part in rest if part)


def _same(one: str, other: str) -> int:
    """The number of letters that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (left, right) in pairs if left != right), min(len(one), len(other)))
