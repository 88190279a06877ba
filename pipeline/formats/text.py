"""Values of records as text for messages."""

import reprlib
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
