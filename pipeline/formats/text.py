"""Values of records as text for messages."""

import reprlib
import unicodedata
from typing import Any


def show_value(value: Any) -> str:
    """A record's value for a message: on one line and not too long."""
    if type(value) is int and abs(value) < 10**18:
        return str(value)
    if isinstance(value, str):
        return value if value.isprintable() and len(value) <= 100 else ascii(value[:100])[1:-1]
    return reprlib.repr(value)


def is_utf8(value: str) -> bool:
    r"""Whether a string can be encoded as UTF-8. JSON allows `"\ud800"`, an unpaired surrogate, which can't."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def fold_name(name: str) -> str:
    r"""A file's name or path in a form that all its spellings have in common.

    macOS writes é as two characters where annotations have one (NFC); Windows and macOS ignore case; Windows writes
    `a\b` for `a/b`, and some programs unpack that as a file's name.
    """
    name = name.replace("\\", "/")
    return name.lower() if name.isascii() else _nfc(_nfc(name).casefold())


def spelling_distance(name: str, other: str) -> int:
    """How far two spellings of a name differ: 0 if not at all, 1 in Unicode's normal form only, 2 in case too."""
    if name == other:
        return 0
    return 1 if _nfc(name) == _nfc(other) else 2


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)
