"""Tables as CSV files for `dvc plots`, and figures as PNG files. The same numbers give the same bytes."""

import csv
import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.text import Text

from pipeline.files import atomic_replace, write_text
from pipeline.visualization.fonts import font_files, packaged_fonts

_DPI = 100


def write_table(table: Mapping[str, Iterable[Any]], path: Path) -> None:
    """Writes columns of equal length as a CSV file; numbers have six digits, and NaN is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows([_cell(value) for value in row] for row in zip(*table.values(), strict=True))
    write_text(path, text.getvalue())


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else "" if value != value else f"{value:.6g}"


def save_png(draw: Callable[[Figure], None], path: Path, size: tuple[float, float] = (8, 4.5)) -> None:
    """Writes what `draw` draws on a new figure.

    Args:
        size: width and height in units of 100 pixels.
    """
    # pyplot would keep every figure in memory and choose a window system.
    figure = Figure(figsize=size, dpi=_DPI)
    FigureCanvasAgg(figure)
    with rc_context({"font.family": _font_families()}), atomic_replace(path) as temporary, warnings.catch_warnings():
        # Letters of class names that no font has are drawn as boxes, without a warning for each letter.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        draw(figure)
        _add_system_fonts(figure)
        figure.savefig(temporary, format="png", metadata={"Software": None})  # without matplotlib's version


def add_axes(figure: Figure, *position: Any, **labels: Any) -> Axes:
    """Axes with a grid, in a figure whose layout follows the texts; `labels` are properties such as xlabel."""
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot(*position)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    axes.set(**labels)
    return axes


def escape_text(text: str) -> str:
    """The text as matplotlib shows it unchanged: it typesets text between dollar signs as a formula."""
    return text.replace("$", r"\$")


def _font_families() -> list[str]:
    """matplotlib takes each letter from the first of these fonts that has it."""
    return [_family(path) for path in packaged_fonts()]


def _add_system_fonts(figure: Figure) -> None:
    """Texts with letters that no package has are drawn with a font of the system."""
    for text in figure.findobj(Text):
        if found := font_files(text.get_text()).difference(packaged_fonts()):
            text.set_fontfamily([*_font_families(), *map(_family, sorted(found))])


@cache
def _family(path: Path) -> str:
    """The name of a font, which matplotlib then knows."""
    fontManager.addfont(path)
    return FontProperties(fname=path).get_name()
