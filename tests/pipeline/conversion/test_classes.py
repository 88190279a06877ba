from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.conversion.classes import select_classes, similar_names, unknown_class_issue
from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.records import RawDataset, RawImage, RawObject, RawSplit


def test_a_class_is_chosen_by_any_normal_form_of_its_name() -> None:
    two_characters, one = Category(1, "cafe\u0301"), Category(2, "caf\u00e9")
    for own, chosen, expected in (
        ([two_characters], [one.name], (two_characters,)),
        ([two_characters, one], [one.name, two_characters.name], (one, two_characters)),
        ([two_characters], {"x": [one.name]}, (Category(1, "x"),)),
    ):
        assert select_classes(dataset(*own), chosen).categories == expected


def dataset(*categories: Category) -> RawDataset:
    """One image with an object of each class, and one of an unlisted class."""
    names = [*(category.name for category in categories), "unlisted"]
    objects = tuple(RawObject(f"object of {name}", name, (0, 0, 1, 1)) for name in names)
    return RawDataset(categories, {"all": RawSplit((RawImage("image", "a.png", objects=objects),))}, 1)


ROAD = dataset(Category(3, "car"), Category(1, "van"), Category(7, "person"), Category(8, "dog"))


def class_names(selected: RawDataset) -> list[str]:
    return [item.class_name for item in selected.splits["all"].images[0].objects]


def test_a_mapping_merges_and_renames_classes() -> None:
    selected = select_classes(ROAD, {"human": ("person",), "vehicle": ("van", "car")})
    assert selected.categories == (Category(7, "human"), Category(1, "vehicle"))
    assert class_names(selected) == ["vehicle", "vehicle", "human", "dog", "unlisted"]


def test_a_mapping_may_swap_names_and_keep_one() -> None:
    selected = select_classes(ROAD, {"car": ("van",), "van": ("car",), "dog": ("dog", "person")})
    assert selected.categories == (Category(1, "car"), Category(3, "van"), Category(8, "dog"))
    assert class_names(selected) == ["van", "car", "dog", "dog", "unlisted"]


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"vehicle": ("car", "bus")}, "the data set has no class 'bus'; it has car, van, person, dog"),
        ({"a": ("car",), "b": ("van", "car")}, "'car' is listed twice; give it to one class"),
        ({"a": ("car", "car")}, "'car' is listed twice; give it to one class"),
        (
            {"dog": ("person",)},
            "the data set has a class 'dog' of its own, which is not listed; add it to a list, or choose another name",
        ),
    ],
)
def test_an_ambiguous_mapping_is_one_line(mapping: dict[str, tuple[str, ...]], problem: str) -> None:
    with pytest.raises(PipelineError) as caught:
        select_classes(ROAD, mapping)
    assert str(caught.value) == f"convert.classes: {problem}"


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
