"""One line, whatever is in it."""

import pytest

from pipeline.errors import PipelineError, count_noun, count_phrase, escape_line_breaks, format_table


@pytest.mark.parametrize("broken", ["\n", "\r\n", "\x85", "\u2028", "\x0b", "\x1e"])
def test_line_breaks_are_written_out(broken: str) -> None:
    line = str(PipelineError(f"a{broken}.txt: not there"))
    assert line == f"a{repr(broken)[1:-1]}.txt: not there"
    assert len(line.splitlines()) == 1


def test_all_else_stays() -> None:
    assert escape_line_breaks("Größe\t3 × 4, 犬.jpg") == "Größe\t3 × 4, 犬.jpg"


@pytest.mark.parametrize(
    ("number", "nouns", "expected"),
    [
        (0, ("image",), "0 images"),
        (1, ("image",), "1 image"),
        (2000, ("image",), "2,000 images"),
        (1, ("class", "classes"), "1 class"),
        (3, ("class", "classes"), "3 classes"),
    ],
)
def test_count_noun(number: int, nouns: tuple[str, ...], expected: str) -> None:
    assert count_noun(number, *nouns) == expected


@pytest.mark.parametrize(
    ("number", "plural", "expected"),
    [
        (0, "image ids", "0 image ids"),
        (1, "image ids", "1 image id"),
        (2000, "image ids", "2,000 image ids"),
        (1, "boxes up to 1 px outside their image", "1 box up to 1 px outside their image"),
        (1, "classes without objects", "1 class without objects"),
        (1, "class names with surrounding spaces", "1 class name with surrounding spaces"),
        (1, "crowds, left out", "1 crowd, left out"),
        (1, "spaces in names", "1 space in names"),
    ],
)
def test_count_phrase(number: int, plural: str, expected: str) -> None:
    assert count_phrase(number, plural) == expected


def test_a_table_aligns_its_columns_and_has_no_trailing_spaces() -> None:
    rows = [("class", "AP", "comment"), ("cat", "0.5", ""), ("hippopotamus", "0.25", "rare")]
    assert format_table(rows, "lrl").split("\n") == [
        "class           AP  comment",
        "cat            0.5",
        "hippopotamus  0.25  rare",
    ]


def test_a_table_shows_brackets_and_wide_cells_as_they_are() -> None:
    assert format_table([("[red]", "x" * 300)], "ll") == "[red]  " + "x" * 300
