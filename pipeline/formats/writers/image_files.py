"""The image files of an exported data set, and the names of its files and splits."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from posixpath import commonpath

from tqdm import tqdm

from pipeline.data.image_files import open_image_file
from pipeline.errors import PipelineError

Transfer = Callable[[Path, Path], object]

IMAGE_MODES: dict[str, Transfer | None] = {"copy": shutil.copyfile, "link": os.link, "none": None}

# Not allowed in a line of a list, in XML or in file names: controls, line breaks, unpaired surrogates, separators.
_INVALID = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff/\\]")


@dataclass(frozen=True)
class SourceImages:
    """The image files of the data set that is exported."""

    folder: Path
    mode: Transfer | None  # None: image files aren't exported

    def transfer(self, files: Iterable[tuple[str, Path]]) -> None:
        """Copies or links each file, given by its name in the unified format, to its new path.

        Raises:
            PipelineError: The file system refuses, for example to create a hard link.
        """
        if self.mode is None:
            return
        for file, target in tqdm(list(files), "writing images", unit="image", mininterval=1.0, delay=1.0):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.mode(self.folder / file, target)
            except OSError as error:
                remedy = "try --images copy" if self.mode is os.link else "free some space, or try --images link"
                raise PipelineError(f"{target}: can't be written: {error.strerror}; {remedy}") from None

    def count_channels(self, file: str) -> int:
        """The number of channels of an image as stored."""
        with open_image_file(self.folder / file) as image:
            return len(image.picture.getbands()) if image.picture else 3


def name_images(files: Sequence[str], unique_part: Callable[[PurePosixPath], str]) -> list[str]:
    """A name without folders for each file: its own name, preceded by its folders if several files have that name.

    Args:
        unique_part: The part of a name that must be unique, ignoring case, because some file systems ignore it.
    """
    paths = [PurePosixPath(file) for file in files]
    uses = Counter(unique_part(path).casefold() for path in paths)
    shared = _count_shared_folders(paths)
    used: set[str] = set()
    names = ("_".join(path.parts[shared:]) if uses[unique_part(path).casefold()] > 1 else path.name for path in paths)
    return [_make_unique(sanitize(name), used, unique_part) for name in names]


def _count_shared_folders(paths: Sequence[PurePosixPath]) -> int:
    """The number of leading folders that all paths have in common."""
    return len(PurePosixPath(commonpath([path.parent for path in paths])).parts) if paths else 0


def name_splits(splits: Iterable[str], reserved: re.Pattern[str]) -> dict[str, str]:
    """A file name for each split: its own name where possible.

    Args:
        reserved: Names that have another meaning in the format.
    """
    used: set[str] = set()
    names: dict[str, str] = {}
    for split in splits:
        name = sanitize(split.replace("/", "-"))  # not "_": VOC's cat_val.txt is a list of one class
        name = f"split_{name}" if reserved.fullmatch(name) else name
        names[split] = _make_unique(name, used, lambda path: path.name)
    return names


def count_renamed(names: Iterable[str], new_names: Iterable[str]) -> int:
    return sum(PurePosixPath(name).name != new_name for name, new_name in zip(names, new_names, strict=True))


def sanitize(name: str) -> str:
    """The name with `_` for invalid characters, without white space at its ends and dots at its start."""
    path = PurePosixPath(_INVALID.sub("_", name))
    return (path.stem.strip().lstrip(".") or "_") + path.suffix.rstrip()


def _make_unique(name: str, used: set[str], unique_part: Callable[[PurePosixPath], str]) -> str:
    path, number = PurePosixPath(name), 2
    while unique_part(path).casefold() in used:
        path = PurePosixPath(name).with_stem(f"{PurePosixPath(name).stem}-{number}")
        number += 1
    used.add(unique_part(path).casefold())
    return path.name


def write_text(path: Path, text: str) -> None:
    """Writes a file without flushing it to disk: the whole exported folder is written atomically."""
    path.write_text(text, encoding="utf-8", newline="\n")
