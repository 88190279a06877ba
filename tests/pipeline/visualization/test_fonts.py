"""Labels in many scripts are readable: every letter has a glyph of its own, or is an escape sequence."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import get_data_path
from PIL import Image, ImageDraw, ImageFont, features

from pipeline.visualization import figures, fonts
from pipeline.visualization.fonts import Line, has_font, packaged_fonts, typeset
from tests.support.paths import SHARED


@pytest.fixture
def no_system_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    forget()
    monkeypatch.setattr(fonts, "_system_fonts", lambda _: [])
    yield
    forget()


def forget() -> None:
    fonts._find_font.cache_clear()
    fonts._pieces.cache_clear()


def has_glyph(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    """Whether a letter looks different from a code point that no font has."""
    shapes = [np.asarray(font.getmask(text)) for text in (letter, "\U0010fffe")]
    return not np.array_equal(*shapes)


def all_have_glyphs(line: Line) -> bool:
    return all(has_glyph(font, letter) for text, font in line.pieces for letter in text if letter != " ")


def names(line: Line) -> list[tuple[str, str]]:
    return [(text, Path(font.path).stem) for text, font in line.pieces]


def test_latin_greek_and_cyrillic_need_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_letters", None)
    forget()
    for text in ("cat 0.93", "naïve…", "β-cell", "сколь"):
        line = typeset(text, 20)
        assert names(line) == [(text, "DejaVuSans")]
        assert all_have_glyphs(line)
    assert typeset("", 20).width == 0


@pytest.mark.usefixtures("no_system_fonts")
@pytest.mark.parametrize("text", ["ナット", "猫 0.93", "قطة", "한국어", "中文汉字", "שלום", "ქართული", "ａｂ、「犬」"])
def test_each_letter_has_a_glyph(text: str) -> None:
    line = typeset(text, 20)
    assert (line.text, len(line.pieces)) == (text, 1)
    assert has_font(text)
    assert all_have_glyphs(line)


@pytest.mark.usefixtures("no_system_fonts")
def test_the_names_of_the_shared_case() -> None:
    path = SHARED / "cases/cjk_names/names.txt"
    if not path.is_file():
        pytest.skip("../shared/cases/cjk_names is not there")
    for name in path.read_text(encoding="utf-8").split():
        line = typeset(name, 20)
        assert line.text == name
        assert all_have_glyphs(line)


@pytest.mark.usefixtures("no_system_fonts")
def test_a_text_in_several_scripts_takes_each_letter_from_a_font_that_has_it() -> None:
    line = typeset("cat 猫犬 0.9 β ق", 20)
    # Noto Sans CJK has digits and Greek letters, too, but no Arabic ones.
    assert names(line) == [("cat ", "DejaVuSans"), ("猫犬 0.9 β ", "NotoSansCJKjp-Regular"), ("ق", "DejaVuSans")]
    assert line.width == pytest.approx(sum(font.getlength(text) for text, font in line.pieces))
    # The direction of the first letter that has one decides: Arabic is read from the right.
    assert names(typeset("1 قطة 猫", 20)) == [("猫", "NotoSansCJKjp-Regular"), ("1 قطة ", "DejaVuSans")]


def test_arabic_letters_are_joined() -> None:
    assert features.check("raqm")
    joined, apart = typeset("قطة", 40), typeset("ق ط ة", 40)
    spaces = 2 * typeset(" ", 40).width
    assert joined.width < apart.width - spaces - 4


@pytest.mark.usefixtures("no_system_fonts")
def test_letters_without_a_font_become_escape_sequences() -> None:
    assert typeset("ไทย x", 20).text == r"\u0e44\u0e17\u0e22 x"
    assert typeset("\U00012000", 20).text == r"\U00012000"
    assert names(typeset("猫\u0e44犬", 20)) == [
        ("猫", "NotoSansCJKjp-Regular"), (r"\u0e44", "DejaVuSans"), ("犬", "NotoSansCJKjp-Regular"),
    ]  # fmt: skip
    assert fonts.spell_out("a猫\u0e44") == r"a猫\u0e44"
    assert [has_font(text) for text in ("ไทย", "猫 0.9", "cat\u200d", "")] == [False, True, True, True]


def test_the_fonts_of_the_system_are_searched_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    dejavu, noto = packaged_fonts()
    monkeypatch.setattr(fonts, "packaged_fonts", lambda: (dejavu,))
    monkeypatch.setattr(fonts, "_system_fonts", lambda _: [broken, noto])
    forget()
    assert names(typeset("猫", 20)) == [("猫", noto.stem)]
    forget()


@pytest.mark.skipif(shutil.which("fc-list") is None, reason="fc-list is not installed")
def test_fontconfig_finds_the_regular_sans_serif_font_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "fonts"
    folder.mkdir()
    for name in ("DejaVuSans-Bold", "DejaVuSans", "DejaVuSansMono", "DejaVuSerif"):
        shutil.copy(Path(get_data_path()) / f"fonts/ttf/{name}.ttf", folder)
    configuration = tmp_path / "fonts.conf"
    configuration.write_text(f"<fontconfig><dir>{folder}</dir><cachedir>{tmp_path}/cache</cachedir></fontconfig>")
    monkeypatch.setenv("FONTCONFIG_FILE", str(configuration))
    found = fonts._system_fonts("Ж")
    assert (found[0].name, len(found)) == ("DejaVuSans.ttf", 4)
    assert fonts._system_fonts("猫") == []


def test_known_folders_are_searched_where_fontconfig_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    dejavu, noto = packaged_fonts()
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [str(noto), str(dejavu)])
    fonts._search_folders.cache_clear()
    assert fonts._system_fonts("猫") == [dejavu, noto]  # `_find_font` then takes the first that has the letter
    fonts._search_folders.cache_clear()


def test_a_line_is_drawn_where_it_is_measured() -> None:
    image = Image.new("RGB", (300, 60))
    line = typeset("gقطة猫", 30)
    line.draw(ImageDraw.Draw(image), 10, 40, (255, 255, 255))
    left, top, right, bottom = image.getbbox() or (0, 0, 0, 0)
    assert (top, bottom) == (40 + line.extent[0], 40 + line.extent[1])
    assert left >= 10 - 1
    assert right == pytest.approx(10 + line.width, abs=3)


def test_plots_take_a_font_of_the_system_where_no_package_has_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    dejavu, noto = packaged_fonts()
    monkeypatch.setattr(fonts, "packaged_fonts", lambda: (dejavu,))
    monkeypatch.setattr(figures, "packaged_fonts", lambda: (dejavu,))
    monkeypatch.setattr(fonts, "_system_fonts", lambda _: [noto])
    forget()
    figure = Figure()
    latin, chinese = figure.text(0, 0, "cat"), figure.text(0, 0, "猫")
    figures._add_system_fonts(figure)
    assert "Noto Sans CJK JP" not in latin.get_fontfamily()
    assert chinese.get_fontfamily() == ["DejaVu Sans", "Noto Sans CJK JP"]
    forget()
