"""One line, whatever is in it."""

import pytest

from pipeline.errors import PipelineError, one_line, pluralize


@pytest.mark.parametrize("broken", ["\n", "\r\n", "\x85", "\u2028", "\x0b", "\x1e"])
def test_line_breaks_are_written_out(broken: str) -> None:
    line = str(PipelineError(f"a{broken}.txt: not there"))
    assert line == f"a{repr(broken)[1:-1]}.txt: not there"
    assert len(line.splitlines()) == 1


def test_all_else_stays() -> None:
    assert one_line("Größe\t3 × 4, 犬.jpg") == "Größe\t3 × 4, 犬.jpg"


@pytest.mark.parametrize(("number", "text"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (2000, "2,000 images")])
def test_pluralize(number: int, text: str) -> None:
    assert pluralize(number, "image") == text


def test_irregular_plurals_are_given() -> None:
    assert pluralize(2, "class", "classes") == "2 classes"
