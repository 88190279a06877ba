"""Which image file a record means, wherever in the data set's folder it lies."""

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

import PIL.Image

from pipeline.errors import PipelineError
from pipeline.formats.naming import is_utf8, show_value
from pipeline.formats.records import Issue

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
# Where data sets keep their pictures, as against masks and previews of the same name.
IMAGE_FOLDERS = {"jpegimages", "images", "image", "imgs", "img"}


def list_files(folder: Path) -> list[PurePosixPath]:
    """Every file below `folder`, sorted, as relative paths; hidden files and macOS's leftovers are left out.

    Links to folders are followed, each folder once.

    Raises:
        PipelineError: a folder can't be read, or a file's name isn't UTF-8, which no JSON can hold.
    """
    return [PurePosixPath(path) for path in _walk(folder)]


def _walk(folder: Path) -> Iterator[str]:
    """In the order of the paths' parts: what is in `a` before `a.txt`."""
    seen: set[tuple[int, int]] = set()
    waiting = [("", True)]
    while waiting:
        path, is_folder = waiting.pop()
        if not is_folder:
            yield path
        elif (itself := _identity(folder / path)) not in seen:
            seen.add(itself)
            waiting.extend(reversed(_entries(folder, path)))


def _identity(folder: Path) -> tuple[int, int]:
    try:
        state = folder.stat()
    except OSError as error:
        raise PipelineError(f"{folder}: can't be read: {error.strerror}") from None
    return state.st_dev, state.st_ino


def _entries(folder: Path, path: str) -> list[tuple[str, bool]]:
    """What is in a folder, by name, as (path, whether it is a folder)."""
    try:
        with os.scandir(folder / path) as scanned:
            entries = [(entry.name, entry.is_dir()) for entry in scanned if entry.is_dir() or entry.is_file()]
    except OSError as error:
        raise PipelineError(f"{folder / path}: can't be read: {error.strerror}") from None
    for name, _ in entries:
        if not name.isascii() and not is_utf8(name):
            raise PipelineError(f"{folder / path}: the file name {name!r} there is not UTF-8; rename it")
    kept = [(name, is_folder) for name, is_folder in entries if not name.startswith(".") and name != "__MACOSX"]
    return [(f"{path}/{name}" if path else name, is_folder) for name, is_folder in sorted(kept)]


def read_head(path: Path, size: int = 4096) -> bytes:
    """A file's first bytes.

    Raises:
        PipelineError: it can't be read.
    """
    return _part(path, 0, size)


def read_tail(path: Path, size: int) -> bytes:
    """A file's last bytes.

    Raises:
        PipelineError: it can't be read.
    """
    return _part(path, -size, size)


def _part(path: Path, start: int, size: int) -> bytes:
    """From `start` on; counted from the end, where that is negative."""
    try:
        with path.open("rb") as file:
            file.seek(start if start >= 0 else max(0, os.fstat(file.fileno()).st_size + start))
            return file.read(size)
    except OSError as error:
        raise PipelineError(f"{path}: can't be read: {error.strerror}") from None


def read_image_size(path: Path) -> tuple[int, int] | Issue:
    """Width and height from an image file's header, for formats whose boxes are shares of them."""
    try:
        with PIL.Image.open(path) as image:
            return image.size
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise whatever their parsing stumbles on
        reason = str(error).replace(str(path), path.name).split("\n")[0]
        return Issue("undecodable_image", f"the size of its image {path.name} can't be read: {reason}")


class ImageIndex:
    """The image files of a data set, found by what a record calls them.

    A look-up takes the same time among a hundred files and among a million, also where many have one name, as in
    videos cut into frames.
    """

    def __init__(self, files: list[PurePosixPath]) -> None:
        images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        self.count = len(images)
        self._depth = max((len(image.parts) for image in images), default=0)
        self._by_tail: dict[str, list[PurePosixPath]] = defaultdict(list)  # "a.jpg", "train/a.jpg", …
        self._by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        for image in images:
            self._by_stem[image.stem].append(image)
            for start in range(len(image.parts)):
                self._by_tail["/".join(image.parts[start:])].append(image)
        self._namesakes: dict[tuple[str, str], _Namesakes] = {}

    @property
    def stems(self) -> Collection[str]:
        """File names without folder and ending, each once."""
        return self._by_stem.keys()

    def find(self, name: str, near: PurePosixPath, split: str = "") -> str | Issue:
        """The file whose path ends as `name` does, in as many parts as can be; its folders may be another machine's.

        Of several, the one in a folder named after the split wins, then one in a folder called as the annotation
        file's folder `near` is, then the one nearest to `near`.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for start in range(max(0, len(parts) - self._depth), len(parts)):
            tail = "/".join(parts[start:])
            if tail in self._by_tail:
                return self._nearest(tail, self._by_tail[tail], near, split)
        return _missing(name)

    def find_stem(self, stem: str, near: PurePosixPath, split: str = "") -> str | Issue:
        """The file called `stem` with whatever ending, chosen as `named` does, rather in a folder of pictures."""
        # "/" can't be in a stem: the key is no tail's.
        return self._nearest(f"{stem}/", self._by_stem[stem], near, split) if stem in self._by_stem else _missing(stem)

    def _nearest(self, called: str, candidates: list[PurePosixPath], near: PurePosixPath, split: str) -> str | Issue:
        if len(candidates) == 1:
            return str(candidates[0])
        if (called, split) not in self._namesakes:
            called_so = [file for file in candidates if file.parent.name == split]
            of_split = called_so or [file for file in candidates if split in file.parent.parts]
            self._namesakes[called, split] = _Namesakes(of_split or candidates)
        best = self._namesakes[called, split].closest(near)
        if len(best) > 1:
            return Issue(
                "ambiguous_image", f"its image '{show_value(called.rstrip('/'))}' may be {best[0]} or {best[1]}"
            )
        return str(best[0])


class _Namesakes:
    """Files of one name, by the folders that they are in."""

    def __init__(self, files: list[PurePosixPath]) -> None:
        self._below = _by_folder(files)
        by_room: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in files:
            by_room[file.parent.name].append(file)
        self._in_room = {room: _by_folder(own) for room, own in by_room.items()}

    def closest(self, near: PurePosixPath) -> list[PurePosixPath]:
        """Those with most folders in common with `near`: beside it, or in a folder of pictures, and the fewest off."""
        below = self._in_room.get(near.name, self._below)
        close = next(below[folder] for folder in (near, *near.parents) if folder in below)
        beside = [file for file in close if file.parent == near]
        pictures = [file for file in close if any(part.lower() in IMAGE_FOLDERS for part in file.parts[:-1])]
        best = beside or pictures or close
        depth = min(len(file.parts) for file in best)
        return [file for file in best if len(file.parts) == depth]


def _by_folder(files: list[PurePosixPath]) -> dict[PurePosixPath, list[PurePosixPath]]:
    found: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        for folder in file.parents:
            found[folder].append(file)
    return dict(found)


def _missing(name: str) -> Issue:
    return Issue("missing_image", f"its image '{show_value(name)}' is not there")
