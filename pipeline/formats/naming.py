"""What a data set calls its splits, and how records are called in messages."""

import reprlib
from collections import Counter
from pathlib import PurePosixPath
from typing import Any

# File names that say nothing about the split: the folder's name does.
_GENERIC = {
    "_annotations.coco", "_annotations", "annotations", "annotation", "instances", "coco", "default", "labels",
    "result", "detections",
}  # fmt: skip
# And folder names that don't either.
_NO_SPLIT = {"annotations", "annotation", "labels", ""}


def split_names(files: dict[PurePosixPath, str]) -> dict[PurePosixPath, str]:
    """A name for the split of each annotation file, from what its own name says: the value.

    Where that says nothing, its folder's name counts; where two would be called the same, their folders come before.
    """
    plain = {file: _plain(file, stem) for file, stem in files.items()}
    uses = Counter(plain.values())
    return {file: name if uses[name] == 1 else f"{file.parent}/{name}" for file, name in plain.items()}


def _plain(file: PurePosixPath, stem: str) -> str:
    if stem.lower() not in _GENERIC:
        return stem
    return next((folder.name for folder in file.parents if folder.name.lower() not in _NO_SPLIT), "all")


def show_value(value: Any) -> str:
    """A value of a record for a message: on one line, not too long, whatever it is."""
    if type(value) is int and abs(value) < 10**18:
        return str(value)
    if isinstance(value, str):
        return value if value.isprintable() and len(value) <= 100 else ascii(value[:100])[1:-1]
    return reprlib.repr(value)


def is_utf8(value: str) -> bool:
    """Whether a string can be written as UTF-8: JSON's `"\\ud800"`, half a character, can't."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
