from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conversion.classes import select_categories, similar_names, unknown_class_issue
from pipeline.data.annotations import Category


def test_a_class_is_chosen_by_any_normal_form_of_its_name() -> None:
    two_characters, one = Category(1, "cafe\u0301"), Category(2, "caf\u00e9")
    assert select_categories([two_characters], [one.name]) == (two_characters,)
    assert select_categories([two_characters, one], [one.name, two_characters.name]) == (one, two_characters)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Dog", "dog", True),
        ("stop sign", "stop_sign", True),
        ("stop sign", " stopsign ", True),
        ("person", "persons", True),
        ("person", "parson", True),
        ("platelet", "plateelet", True),
        ("cat", "cats", True),
        ("caf\u00e9", "cafe\u0301", True),  # one on the screen
        ("café", "Cafe", True),
        ("class1", "class1s", True),
        ("car", "cat", False),  # short names are too often a letter apart
        ("class1", "class2", False),
        ("lane 1", "lane 11", False),
        ("0", "1", False),
        ("++", "--", False),
        ("horse", "mouse", False),
        ("banana", "bahama", False),  # two letters
    ],
)
def test_similar_names(one: str, other: str, same: bool) -> None:
    assert list(similar_names([one, "zebra crossing", other])) == ([(one, other)] if same else [])


@given(st.lists(st.text("abcA1 _", max_size=7), unique=True, max_size=8))
def test_similar_names_against_every_pair(names: list[str]) -> None:
    pairs = [pair for pair in combinations(names, 2) if any(similar_names(pair))]
    assert list(similar_names(names)) == pairs


def distance(one: str, other: str) -> int:
    """The Levenshtein distance."""
    if not one or not other:
        return len(one) + len(other)
    if one[0] == other[0]:
        return distance(one[1:], other[1:])
    return 1 + min(distance(one[1:], other), distance(one, other[1:]), distance(one[1:], other[1:]))


@given(st.text("abc", min_size=5, max_size=6), st.text("abc", min_size=5, max_size=6))
def test_similar_names_against_levenshtein_distance(one: str, other: str) -> None:
    assert any(similar_names([one, other])) == (distance(one, other) <= 1)


def test_similar_names_of_many_classes_is_fast() -> None:
    names = [f"{first}{second}-class" for first in range(100) for second in range(1000, 1100)]
    assert not any(similar_names(names))


def test_an_unknown_class_issue_suggests_a_similar_class() -> None:
    assert unknown_class_issue("persn", ("person", "car")).message == (
        "class 'persn' is not in convert.classes (person, car); did you mean 'person'?"
    )
    assert (
        unknown_class_issue("xyz", ("person", "car")).message == "class 'xyz' is not in convert.classes (person, car)"
    )
