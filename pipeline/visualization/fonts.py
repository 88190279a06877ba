"""Fonts for the labels in pictures: for each text, one that has its letters.

matplotlib's DejaVu Sans has the letters of most alphabets, also Arabic, Hebrew, Armenian and Georgian. The package
noto-cjk-sans-jp-regular has Chinese, Japanese and Korean, in one font. For any other script, the fonts of the system
are searched; letters that no font has are shown as their escape sequences in Python, such as `\\u0e41`.
"""

import importlib.util
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from PIL import ImageFont

from pipeline.errors import PipelineError

Font = ImageFont.FreeTypeFont

_FIRST_UNCERTAIN = "\u0530"  # DejaVu Sans has all letters in use before: Latin, Greek, Cyrillic
_PUNCTUATION = "–—‘’“”…→"  # DejaVu Sans has it, too
_PACKAGED = {
    "matplotlib": "mpl-data/fonts/ttf/DejaVuSans.ttf",
    "noto_cjk_sans_jp_regular": "NotoSansCJKjp-Regular.otf",
}


def load_font(size: float) -> Font:
    """DejaVu Sans. Pillow's default font lacks even dashes.

    Raises:
        PipelineError: matplotlib, which contains the font, is not installed.
    """
    return _load(packaged_fonts()[0], size)


def fit_font(text: str, size: float) -> tuple[str, Font]:
    """The text as it can be drawn, and the font to draw it with: the first that has its letters, or most of them."""
    needed = {letter for letter in text if letter >= _FIRST_UNCERTAIN and letter not in _PUNCTUATION}
    needed = {letter for letter in needed if unicodedata.category(letter) != "Cf"}  # marks without a shape
    if not needed:
        return text, load_font(size)
    best, missing = packaged_fonts()[0], needed
    for path in _all_fonts():
        lacking = {letter for letter in needed if ord(letter) not in _letters(path)}
        if len(lacking) < len(missing) or path == best:
            best, missing = path, lacking
        if not missing:
            break
    drawn = "".join(ascii(letter)[1:-1] if letter in missing else letter for letter in text)
    return drawn, _load(best, size)


@cache
def packaged_fonts() -> tuple[Path, ...]:
    """The fonts of installed packages, DejaVu Sans first."""
    found = []
    for name, file in _PACKAGED.items():
        package = importlib.util.find_spec(name)  # not imported: only its font file is used
        if package is not None and package.origin is not None:
            found.append(Path(package.origin).parent / file)
        elif name == "matplotlib":
            raise PipelineError("matplotlib: not installed; its font labels the images: `pip install matplotlib`")
    return tuple(found)


def _all_fonts() -> Iterator[Path]:
    yield from packaged_fonts()
    yield from _system_fonts()


@cache
def _system_fonts() -> tuple[Path, ...]:
    from matplotlib.font_manager import findSystemFonts

    return tuple(sorted(map(Path, findSystemFonts())))


@cache
def _letters(path: Path) -> frozenset[int]:
    """The code points that a font has; none if it can't be read."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with path.open("rb") as file, TTFont(file, fontNumber=0, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError, KeyError, AssertionError):
        return frozenset()


@cache
def _load(path: Path, size: float) -> Font:
    return ImageFont.truetype(path, size)
