"""Symbolic links in a person's folder: which of them may become part of the data set."""

import errno
import os
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from pipeline.errors import PipelineError

IGNORED = (".*", "__MACOSX")  # patterns of names that are no part of a data set


def check_links(folder: Path, *, follow: bool) -> None:
    """Makes sure that copying the folder copies nothing from outside of it, and that it ends.

    Links to files and folders inside are allowed. A link that leads outside could bring a private file into data/raw,
    and from there to a DVC remote.

    Args:
        follow: allows links to files and folders outside.

    Raises:
        PipelineError: the first link that leads outside, to nothing, or to a folder that contains it; or the first
            entry that is neither a file nor a folder.
    """
    real = Path(os.path.realpath(folder))
    _check_folder(folder, [real], None if follow else real)


def _check_folder(folder: Path, ancestors: Sequence[Path], boundary: Path | None) -> None:
    """Checks a folder with everything below it.

    Args:
        ancestors: the real paths of the folder and of those that contain it, from `check_links`'s down.
        boundary: the real path of the folder that links must not leave; None: they may.
    """
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise PipelineError(f"{folder}: can't be read: {error.strerror}") from None
    for entry in entries:
        if any(fnmatch(entry.name, pattern) for pattern in IGNORED):
            continue
        path = Path(entry.path)
        real = _follow(path, boundary) if entry.is_symlink() else ancestors[-1] / entry.name
        if entry.is_dir():
            if real in ancestors:
                raise PipelineError(f"{path}: is a link to {real}, a folder that contains it; remove the link")
            _check_folder(path, [*ancestors, real], boundary)
        elif not entry.is_file():
            raise PipelineError(f"{path}: is neither a file nor a folder; remove it")


def _follow(link: Path, boundary: Path | None) -> Path:
    """The real path that a link leads to."""
    try:
        real = Path(os.path.realpath(link, strict=True))
    except OSError as error:
        problem = "to itself" if error.errno == errno.ELOOP else f"to {link.readlink()}, which can't be found"
        raise PipelineError(f"{link}: is a link {problem}; remove the link, or put the file there") from None
    if boundary is not None and not real.is_relative_to(boundary):
        raise PipelineError(
            f"{link}: is a link to {real}, outside of the data set; put a copy there, or follow such links with "
            "-S download.follow_links=true"
        )
    return real
