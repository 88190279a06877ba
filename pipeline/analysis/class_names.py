"""What the names of classes say about augmentation: whether mirrored or recolored objects keep their class."""

import re
import unicodedata

_DIRECTION = re.compile(r"(?<![a-z])(left|right|west|east|(anti|counter)?-?clockwise)(?![a-z])", re.IGNORECASE)
_WRITING = frozenset({"digit", "letter", "character", "number", "text", "word"})
_WRITING |= {f"{word}s" for word in _WRITING}
_DIGITS = frozenset({"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"})
_ALPHABETS = ("LATIN", "GREEK", "CYRILLIC")  # a single letter of which is no word; 人 is one
_COLOR = re.compile(r"(?<![a-z])(red|green|blue|yellow|orange|white|black|brown|gr[ae]y|pink|purple)(?![a-z])", re.I)


def sided_class(classes: tuple[str, ...]) -> str | None:
    """The first class that a mirrored image would show wrong: a side in its name, or a digit, a letter or text."""
    return next((name for name in classes if _DIRECTION.search(_words(name)) or _is_writing(name)), None)


def _is_writing(name: str) -> bool:
    """digit_3 and `license plate text`, but neither `number plate` nor `type a`."""
    words = re.findall(r"\d+|[^\W\d_]+", _words(name).lower())
    return bool(words) and (words[-1] in _WRITING or all(_is_symbol(word) for word in words))


def _is_symbol(word: str) -> bool:
    is_letter = len(word) == 1 and unicodedata.name(word, "").startswith(_ALPHABETS)
    return is_letter or word.isdecimal() or word in _DIGITS or word in _WRITING


def colored_class(classes: tuple[str, ...]) -> str | None:
    """The first class with a color in its name."""
    return next((name for name in classes if _COLOR.search(_words(name))), None)


def _words(name: str) -> str:
    """turnLeft and turn_left as turn left."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", name)
