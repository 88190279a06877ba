"""Progress of long transfers: bytes, rate and remaining time."""

from typing import NoReturn

from tqdm import tqdm


def byte_bar(title: str, total: int | None, *, done: int = 0, delay: float = 1.0) -> "tqdm[NoReturn]":
    """A progress bar of bytes, shown after `delay` seconds if stderr is a terminal.

    Args:
        total: bytes; None if unknown.
        done: bytes of an earlier transfer that this one resumes.
    """
    return tqdm(
        desc=title,
        initial=done,
        total=total,
        unit="B",
        unit_scale=True,
        dynamic_ncols=True,
        delay=delay,
        disable=None,  # no bar if stderr is not a terminal
    )


def format_bytes(count: int) -> str:
    """A number of bytes with a unit, such as `1.5GB`."""
    return str(tqdm.format_sizeof(count, "B", 1000))
