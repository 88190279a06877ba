import pytest

from pipeline.conversion.classes import alike, unknown


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Dog", "dog", True),
        ("stop sign", "stop_sign", True),
        ("stop sign", " stopsign ", True),
        ("person", "persons", True),
        ("person", "parson", True),
        ("platelet", "plateelet", True),
        ("car", "cat", False),  # short names are too often a letter apart
        ("class1", "class2", False),
        ("lane 1", "lane 11", False),
        ("0", "1", False),
        ("++", "--", False),
        ("horse", "mouse", False),
        ("banana", "bahama", False),  # two letters
    ],
)
def test_alike(one: str, other: str, same: bool) -> None:
    assert list(alike([one, "zebra crossing", other])) == ([(one, other)] if same else [])


def test_an_unknown_class_is_told_what_it_may_be() -> None:
    assert unknown("persn", ("person", "car")).message.endswith("not in convert.classes: person, car; is it 'person'?")
    assert unknown("xyz", ("person", "car")).message.endswith("not in convert.classes: person, car")
