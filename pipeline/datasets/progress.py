"""How far a long transfer is: bytes, rate and time left."""

from typing import NoReturn

from tqdm import tqdm


def byte_bar(what: str, total: int | None, *, done: int = 0, delay: float = 1.0) -> "tqdm[NoReturn]":
    """A bar of bytes, shown after `delay` seconds; nothing where nobody looks at a terminal.

    Args:
        total: bytes; None where nobody knows.
        done: bytes that were there before.
    """
    return tqdm(
        desc=what,
        initial=done,
        total=total,
        unit="B",
        unit_scale=True,
        dynamic_ncols=True,
        delay=delay,
        disable=None,  # off where stderr is no terminal
    )


def format_bytes(count: int) -> str:
    """`1.5GB`."""
    return str(tqdm.format_sizeof(count, "B", 1000))
