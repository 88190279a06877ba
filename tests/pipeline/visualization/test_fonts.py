"""Labels in many scripts are readable: every letter has a glyph of its own, or is an escape sequence."""

from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from pipeline.visualization import fonts
from pipeline.visualization.figures import _font_families
from pipeline.visualization.fonts import fit_font, load_font, packaged_fonts
from tests.support.paths import SHARED


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_system_fonts", tuple)


def has_glyph(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether a letter looks different from a code point that no font has."""
    shapes = [np.asarray(font.getmask(text)) for text in (letter, "\U0010fffe")]
    return not np.array_equal(*shapes)


def test_latin_greek_and_cyrillic_need_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_letters", None)
    for text in ("cat 0.93", "naïve…", "β-cell", "сколь", ""):
        assert fit_font(text, 20) == (text, load_font(20))
    assert all(has_glyph(load_font(20), letter) for letter in "β-cell сколь…" if letter != " ")


@pytest.mark.usefixtures("no_system_fonts")
@pytest.mark.parametrize("text", ["ナット", "猫 0.93", "قطة", "한국어", "中文汉字", "שלום", "ქართული", "ａｂ、「犬」"])
def test_each_letter_has_a_glyph(text: str) -> None:
    drawn, font = fit_font(text, 20)
    assert drawn == text
    assert all(has_glyph(font, letter) for letter in text if letter != " ")


@pytest.mark.usefixtures("no_system_fonts")
def test_the_names_of_the_shared_case() -> None:
    path = SHARED / "cases/cjk_names/names.txt"
    if not path.is_file():
        pytest.skip("../shared/cases/cjk_names is not there")
    for name in path.read_text(encoding="utf-8").split():
        drawn, font = fit_font(name, 20)
        assert drawn == name
        assert all(has_glyph(font, letter) for letter in name)


@pytest.mark.usefixtures("no_system_fonts")
def test_letters_without_a_font_become_escape_sequences() -> None:
    assert fit_font("ไทย x", 20)[0] == r"\u0e44\u0e17\u0e22 x"
    assert fit_font("\U00012000", 20)[0] == r"\U00012000"
    drawn, font = fit_font("猫犬ق", 20)  # no font has all of them: that with the most
    assert (drawn, Path(font.path).name) == (r"猫犬\u0642", "NotoSansCJKjp-Regular.otf")


def test_the_fonts_of_the_system_are_searched_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    dejavu, noto = packaged_fonts()
    monkeypatch.setattr(fonts, "packaged_fonts", lambda: (dejavu,))
    monkeypatch.setattr(fonts, "_system_fonts", lambda: (broken, noto))
    assert Path(fit_font("猫", 20)[1].path) == noto


def test_curves_use_the_same_fonts() -> None:
    assert _font_families() == ["DejaVu Sans", "Noto Sans CJK JP"]
