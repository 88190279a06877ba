"""Text in pictures, in any script: each letter from a font that has it.

matplotlib's DejaVu Sans has the letters of most alphabets, also Arabic, Hebrew, Armenian and Georgian. The package
noto-cjk-sans-jp-regular has Chinese, Japanese and Korean, in one font. For any other script, such as Devanagari or
Thai, the fonts of the system are searched, by fontconfig where it is installed. Letters that no font has are shown as
their escape sequences in Python, such as `\\u0e41`. Raqm, which is part of Pillow's packages, joins and orders letters.
"""

import importlib.util
import os
import shutil
import subprocess
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from PIL import ImageDraw, ImageFont

from pipeline.errors import PipelineError

Font = ImageFont.FreeTypeFont

_FIRST_UNCERTAIN = "\u0530"  # DejaVu Sans has all letters in use before: Latin, Greek, Cyrillic
_PUNCTUATION = "–—‘’“”…→"  # DejaVu Sans has it, too
_PACKAGED = {
    "matplotlib": "mpl-data/fonts/ttf/DejaVuSans.ttf",
    "noto_cjk_sans_jp_regular": "NotoSansCJKjp-Regular.otf",
}
# Words in the names of fonts that are less readable as labels than the regular sans-serif font of a script.
_UNUSUAL = (
    "Black", "Bold", "Color", "Condensed", "Display", "Italic", "Light", "Medium", "Mono", "Oblique", "Serif", "Thin",
)  # fmt: skip
_RIGHT_TO_LEFT = ("R", "AL")  # bidirectional classes of Unicode
_FONTCONFIG_SECONDS = 10.0


@dataclass(frozen=True)
class Line:
    """A line of text, split into pieces that a font each has the letters of, in the order from left to right."""

    pieces: tuple[tuple[str, Font], ...]

    @property
    def text(self) -> str:
        """The text as it is drawn, piece by piece."""
        return "".join(text for text, _ in self.pieces)

    @property
    def width(self) -> float:
        """In pixels."""
        return sum(font.getlength(text) for text, font in self.pieces)

    @property
    def extent(self) -> tuple[float, float]:
        """The highest and the lowest pixel of the letters, measured downwards from the baseline."""
        boxes = [font.getbbox(text, anchor="ls") for text, font in self.pieces]
        return min((box[1] for box in boxes), default=0), max((box[3] for box in boxes), default=0)

    def draw(self, pen: ImageDraw.ImageDraw, x: float, baseline: float, color: tuple[int, int, int]) -> None:
        for text, font in self.pieces:
            pen.text((x, baseline), text, fill=color, font=font, anchor="ls")
            x += font.getlength(text)


def typeset(text: str, size: float) -> Line:
    """The text with the fonts to draw it with: one for the whole text if possible.

    Args:
        size: of the letters, in pixels.
    """
    pieces = [(piece, _load(path, size)) for piece, path in _pieces(text)]
    # Within a piece, Raqm orders the letters; the order of pieces follows the first letter that has a direction.
    return Line(tuple(reversed(pieces) if _is_right_to_left(text) else pieces))


def has_font(text: str) -> bool:
    """Whether some font has all letters of the text; otherwise it is drawn with escape sequences."""
    return all(_find_font(letter) is not None for letter in text if unicodedata.category(letter) != "Cf")


def spell_out(text: str) -> str:
    """The text with escape sequences in place of letters that no font has."""
    return "".join(_fit(letter, packaged_fonts()[0])[0] for letter in text)


def font_files(text: str) -> set[Path]:
    """The fonts that the letters of the text are drawn with."""
    return {path for _, path in _pieces(text)}


def load_font(size: float) -> Font:
    """DejaVu Sans. Pillow's default font lacks even dashes.

    Raises:
        PipelineError: matplotlib, which contains the font, is not installed.
    """
    return _load(packaged_fonts()[0], size)


@cache
def _pieces(text: str) -> tuple[tuple[str, Path], ...]:
    """The text, divided where another font is needed. A letter keeps the font of the one before it if that has it."""
    pieces: list[tuple[str, Path]] = []
    for letter in text:
        drawn, font = _fit(letter, pieces[-1][1] if pieces else packaged_fonts()[0])
        if pieces and pieces[-1][1] == font:
            drawn = pieces.pop()[0] + drawn
        pieces.append((drawn, font))
    return tuple(pieces)


def _fit(letter: str, current: Path) -> tuple[str, Path]:
    """A letter as it is drawn, and its font: the current one if possible."""
    default = packaged_fonts()[0]
    # Marks of the category Cf have no shape: they tell how their neighbors are joined, in the same font.
    if unicodedata.category(letter) == "Cf" or (current == default and not _is_uncertain(letter)):
        return letter, current
    if _has(current, letter):
        return letter, current
    found = _find_font(letter)
    return (letter, found) if found else (ascii(letter)[1:-1], default)


def _is_uncertain(letter: str) -> bool:
    return letter >= _FIRST_UNCERTAIN and letter not in _PUNCTUATION and unicodedata.category(letter) != "Cf"


def _is_right_to_left(text: str) -> bool:
    directions = (unicodedata.bidirectional(letter) for letter in text)
    return next((found for found in directions if found in ("L", *_RIGHT_TO_LEFT)), "L") in _RIGHT_TO_LEFT


def _has(font: Path, letter: str) -> bool:
    return ord(letter) in _letters(font)


@cache
def _find_font(letter: str) -> Path | None:
    """The first font that has a letter, those of packages first; None if there is none."""
    if not _is_uncertain(letter):
        return packaged_fonts()[0]
    # A generator: the fonts of the system are searched only for a letter that no package has.
    candidates = (path for fonts in (packaged_fonts, partial(_system_fonts, letter)) for path in fonts())
    return next((path for path in candidates if _has(path, letter)), None)


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


def _system_fonts(letter: str) -> list[Path]:
    """Fonts of the system that may have a letter, the most readable first."""
    program = shutil.which("fc-list")
    paths = _ask_fontconfig(program, letter) if program else _search_folders()
    return sorted(paths, key=lambda path: (any(word in path.stem for word in _UNUSUAL), path))


def _ask_fontconfig(program: str, letter: str) -> Sequence[Path]:
    """Reading all fonts of a system takes seconds; fontconfig keeps an index of their letters."""
    command = [program, "-f", "%{file}\n", f":charset={ord(letter):x}:scalable=true"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_FONTCONFIG_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return _search_folders()
    return [Path(os.fsdecode(line)) for line in done.stdout.splitlines()]


@cache
def _search_folders() -> Sequence[Path]:
    from matplotlib.font_manager import findSystemFonts

    return tuple(map(Path, findSystemFonts()))


@cache
def _letters(path: Path) -> frozenset[int]:
    """The code points that a font has outlines of; none if it can't be read."""
    from fontTools.ttLib import TTFont, TTLibError

    try:
        with path.open("rb") as file, TTFont(file, fontNumber=0, lazy=True) as font:
            # A font of bitmaps, such as one of colored emoji, can't be drawn at any size.
            outlines = any(table in font for table in ("glyf", "CFF ", "CFF2"))
            return frozenset((font.getBestCmap() or ()) if outlines else ())
    except (TTLibError, OSError, KeyError, AssertionError):
        return frozenset()


@cache
def _load(path: Path, size: float) -> Font:
    return ImageFont.truetype(path, size)
