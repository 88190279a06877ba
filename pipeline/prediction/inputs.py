"""What `fcos predict` reads: the images and videos that files, folders, patterns and lists name."""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import chain
from pathlib import Path

from pipeline.data.image_suffixes import IMAGE_SUFFIXES, find_files

# A file with another ending is read as an image.
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".3gp",
    ".ogv",
})  # fmt: skip

_LIST = "-"
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://", re.I)


@dataclass(frozen=True)
class Inputs:
    """The files to read, each once, in the order in which they were named; files of a folder are sorted."""

    images: list[Path]
    videos: list[Path]
    problems: list[str]  # a line for each argument, and each file of a folder, that can't be read


def find_inputs(arguments: Sequence[str], out: Path | None = None, lines: Iterable[str] = ()) -> Inputs:
    """Finds the files that arguments name.

    Args:
        arguments: files, folders, which are searched with their subfolders, patterns such as `photos/**/*.jpg`, and
            `-` for the lines of a list.
        out: a folder to leave out of folders, because an earlier run wrote its pictures there.
        lines: of the list, a path each.
    """
    files: dict[Path, None] = {}
    problems = []
    for item in chain.from_iterable(_named(argument, lines, out) for argument in arguments):
        if isinstance(item, str):
            problems.append(_readable(item))
        elif (name := _readable(str(item))) == str(item):
            files[item] = None
        else:
            problems.append(f"{name}: the name is not UTF-8; rename it")
    videos = [path for path in files if is_video(path)]
    return Inputs([path for path in files if not is_video(path)], videos, problems)


def is_video(path: Path) -> bool:
    """Whether a file's name ends like that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def _readable(text: str) -> str:
    """The text with `\\xe9` for a byte that is not UTF-8, which the names of files have as surrogates."""
    return os.fsencode(text).decode("utf-8", "backslashreplace")


def _named(argument: str, lines: Iterable[str], out: Path | None) -> Iterator[Path | str]:
    """The files that an argument names, itself or by the lines of a list, or the problems with it."""
    names = [argument]
    if argument == _LIST:
        names = [name for line in lines if (name := line.rstrip("\r\n"))]
        if not names:
            yield f"{_LIST}: the list is empty"
    for name in names:
        try:
            yield from _files(name, out)
        except OSError as error:  # such as a folder of another user, in which nothing can be looked up
            yield f"{name}: can't be read: {(error.strerror or str(error)).lower()}"


def _files(argument: str, out: Path | None) -> Iterator[Path | str]:
    """The files that one argument names, or the problem with it."""
    path = Path(argument)
    if path.is_dir():
        yield from _files_in(path, out)
    elif path.exists():
        yield path
    elif url := _URL.match(argument):
        download = f"download it first: curl -O {shlex.quote(argument)}"
        yield f"{argument}: is a URL; {download if url['scheme'].lower().startswith('http') else 'give a file'}"
    elif has_magic(argument):
        matches = sorted(map(Path, glob(argument, recursive=True)))  # noqa: PTH207 - Path.glob takes no absolute pattern
        if not matches:
            yield f"{argument}: no file matches"
        for match in matches:
            yield from _files_in(match, out) if match.is_dir() else [match]
    else:
        yield f"{path}: no such file or folder"


def _files_in(folder: Path, out: Path | None) -> Iterator[Path | str]:
    suffixes = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    files = find_files(folder, suffixes)
    found = [file for file in files if out is None or out.resolve() not in file.resolve().parents]
    if files and not found:
        yield f"{folder}: every image or video is in the output folder {out}, which is left out: choose another --out"
    elif not found:
        yield f"{folder}: no image or video in this folder (recognized: {', '.join(sorted(suffixes))})"
    yield from found
