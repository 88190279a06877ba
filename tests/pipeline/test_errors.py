"""One line, whatever is in it."""

import pytest

from pipeline.errors import PipelineError, one_line


@pytest.mark.parametrize("broken", ["\n", "\r\n", "\x85", "\u2028", "\x0b", "\x1e"])
def test_line_breaks_are_written_out(broken: str) -> None:
    line = str(PipelineError(f"a{broken}.txt: not there"))
    assert line == f"a{repr(broken)[1:-1]}.txt: not there"
    assert len(line.splitlines()) == 1


def test_all_else_stays() -> None:
    assert one_line("Größe\t3 × 4, 犬.jpg") == "Größe\t3 × 4, 犬.jpg"
