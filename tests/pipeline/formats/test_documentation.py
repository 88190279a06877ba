"""The documentation names every format that can be read."""

import re

from pipeline.formats import FORMATS
from tests.support.paths import PROJECT


def test_table_of_formats_has_a_row_for_each() -> None:
    text = (PROJECT / "docs/datasets.md").read_text()
    section = text.partition("\n## Formats\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(rows) == sorted(FORMATS)
