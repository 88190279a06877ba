"""The image files of an exported data set, and what they and its splits are called."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import commonpath

from PIL import Image
from tqdm import tqdm

from pipeline.errors import PipelineError

Place = Callable[[Path, Path], object]

IMAGE_MODES: dict[str, Place | None] = {"copy": shutil.copyfile, "link": os.link, "none": None}

# What a line of a list, an XML text or a file's name can't hold: controls, line ends, unpaired surrogates, separators.
_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff/\\]")


@dataclass(frozen=True)
class ImageSource:
    """The data set's own image files."""

    folder: Path
    how: Place | None  # None: they are left where they are

    def place(self, files: Iterable[tuple[str, Path]]) -> None:
        """Brings each file, named as in the unified format, to its path.

        Raises:
            PipelineError: links were asked for, and the file system can't.
        """
        if self.how is None:
            return
        for file, target in tqdm(list(files), "placing images", unit="image", mininterval=1.0, delay=1.0):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.how(self.folder / file, target)
            except OSError as error:
                raise PipelineError(f"{file}: not placed: {error.strerror}; another way is --images copy") from None

    def depth(self, file: str) -> int:
        """Channels of the stored image."""
        with Image.open(self.folder / file) as image:
            return len(image.getbands())


def image_names(files: Sequence[str], same: Callable[[PurePosixPath], str]) -> list[str]:
    """A name without folders for each file: its own, with its folders before it where others are called the same.

    Args:
        same: what of a name must differ; case never counts, since some file systems ignore it.
    """
    paths = [PurePosixPath(file) for file in files]
    called = Counter(same(path).casefold() for path in paths)
    shared = _shared_folder(paths)
    taken: set[str] = set()
    return [
        _free(sanitize("_".join(path.parts[shared:]) if called[same(path).casefold()] > 1 else path.name), taken, same)
        for path in paths
    ]


def _shared_folder(paths: Sequence[PurePosixPath]) -> int:
    """How many folders all paths begin with."""
    return len(PurePosixPath(commonpath([path.parent for path in paths])).parts) if paths else 0


def split_names(own: Iterable[str], reserved: re.Pattern[str]) -> dict[str, str]:
    """A file name for each split, by the split's own name: the same wherever it can be.

    Args:
        reserved: names that mean something else in the format.
    """
    taken: set[str] = set()
    return {
        name: _free(f"split_{plain}" if reserved.fullmatch(plain) else plain, taken, lambda path: path.name)
        for name, plain in (
            (name, sanitize(name.replace("/", "-"))) for name in own
        )  # _val.txt is VOC's for a class's list
    }


def count_renamed(own: Iterable[str], names: Iterable[str]) -> int:
    return sum(PurePosixPath(before).name != after for before, after in zip(own, names, strict=True))


def sanitize(name: str) -> str:
    """The name with `_` for what no format holds, and no space or dot at its ends."""
    path = PurePosixPath(_UNFIT.sub("_", name))
    return (path.stem.strip().lstrip(".") or "_") + path.suffix.rstrip()


def _free(name: str, taken: set[str], same: Callable[[PurePosixPath], str]) -> str:
    path, number = PurePosixPath(name), 2
    while same(path).casefold() in taken:
        path = PurePosixPath(name).with_stem(f"{PurePosixPath(name).stem}-{number}")
        number += 1
    taken.add(same(path).casefold())
    return path.name


def write_text(path: Path, text: str) -> None:
    """Plainly: what is written appears with its whole folder, so that no file need be flushed by itself."""
    path.write_text(text, encoding="utf-8", newline="\n")
