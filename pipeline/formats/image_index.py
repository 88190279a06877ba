"""An index of a data set's image files, to find the file that a record refers to."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import takewhile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from pipeline.data.image_files import describe_decoding_error, open_image_file
from pipeline.data.image_suffixes import IMAGE_SUFFIXES
from pipeline.formats.records import Issue
from pipeline.formats.split_kinds import split_kind
from pipeline.formats.text import fold_name, show_value, spelling_distance

__all__ = ["IMAGE_FOLDERS", "IMAGE_SUFFIXES", "ImageIndex", "count_common_tail", "read_image_size"]

# Names of folders with images, as opposed to masks and previews of the same file names.
IMAGE_FOLDERS = {"jpegimages", "images", "image", "imgs", "img"}
# Encodings of names in archives that Windows made in several countries; `datasets.archives` reads them as cp437.
_ENCODINGS = ("cp936", "cp950", "cp932", "cp949", "cp866", "cp1251", "cp850", "cp852", "cp1252", "cp1250")
_MAX_DEPTH = 32  # trailing parts of a path that are compared


def read_image_size(path: Path) -> tuple[int, int] | Issue:
    """Width and height from an image file's header, for formats with relative coordinates."""
    try:
        with open_image_file(path) as image:
            return image.size
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise many types of exceptions
        reason = describe_decoding_error(error, path)
        return Issue("undecodable_image", f"the size of image {path.name} can't be read: {reason}")


class ImageIndex:
    """The image files of a data set, by the ends of their paths.

    A file is also found by another spelling of its name (see `text.fold_name`), if no file has the very name. The time
    of a search doesn't depend on the number of files, even if many have the same name, such as video frames.
    """

    def __init__(self, files: list[PurePosixPath]) -> None:
        self._files = files
        images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        self._num_images = len(images)
        self._by_tail = _group_by_tail(images)
        self._by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        for image in images:
            self._by_stem[fold_name(image.stem).rsplit("/", 1)[-1]].append(image)
        self._namesakes: dict[tuple[str, str], _Namesakes] = {}
        self._others_found: set[str] = set()

    @property
    def stems(self) -> Collection[str]:
        """The distinct file names without folder and suffix, in lower case."""
        return self._by_stem.keys()

    @property
    def count(self) -> int:
        """The number of image files: those that are called so, and others that a record names."""
        return self._num_images + len(self._others_found)

    def find(self, name: str, near: PurePosixPath, split: str = "") -> str | Issue:
        """The file whose path has the most trailing parts in common with `name`, a path perhaps of another machine.

        Among several, a file in a folder named after the split is preferred, then one in a folder of the same name as
        `near`, the annotation file's folder, then the one nearest to `near`. A file whose ending is no image's is found
        if there is no other. If no file has the name, `a%20b.jpg`, part of an address, may be `a b.jpg`, and a name in
        Chinese, Russian, … may be that of a file whose archive didn't state the encoding.
        """
        match = self._find_tail(self._by_tail, name, near, split)
        if match is None and (match := self._find_tail(self._others_by_tail, name, near, split)):
            self._others_found.update([match] if isinstance(match, str) else [])
        others = (other for other in _other_names(name) if other != name) if match is None else iter(())
        for other in others:
            match = match or self._find_tail(self._by_tail, other, near, split)
        return match or _missing(name)

    def find_stem(self, stem: str, near: PurePosixPath, split: str = "") -> str | Issue:
        """The file with this stem and any image suffix; among several, the same one as `find` prefers."""
        candidates = self._by_stem.get(fold_name(stem))
        # A stem has no "/", so the key differs from those of `find`.
        return self._nearest(f"{stem}/", candidates, near, split) if candidates else _missing(stem)

    @cached_property
    def _others_by_tail(self) -> dict[str, list[PurePosixPath]]:
        return _group_by_tail(file for file in self._files if file.suffix.lower() not in IMAGE_SUFFIXES)

    def _find_tail(
        self, by_tail: dict[str, list[PurePosixPath]], name: str, near: PurePosixPath, split: str
    ) -> str | Issue | None:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for start in range(max(0, len(parts) - _MAX_DEPTH), len(parts)):
            tail = "/".join(parts[start:])
            if candidates := by_tail.get(fold_name(tail)):
                return self._nearest(tail, candidates, near, split)
        return None

    def _nearest(self, key: str, candidates: list[PurePosixPath], near: PurePosixPath, split: str) -> str | Issue:
        if len(candidates) == 1:
            return str(candidates[0])
        if (key, split) not in self._namesakes:
            spelled = _closest_spelling(candidates, key)
            self._namesakes[key, split] = _Namesakes(_in_split(spelled, split) or spelled)
        nearest = self._namesakes[key, split].nearest(near)
        if len(nearest) > 1:
            name = show_value(key.rstrip("/"))
            return Issue("ambiguous_image", f"image '{name}' matches both {nearest[0]} and {nearest[1]}")
        return str(nearest[0])


def _other_names(name: str) -> Iterator[str]:
    """What a program may have made of a name: an address without %20, or a .zip that states no encoding unpacked."""
    yield unquote(name)
    for encoding in _ENCODINGS if not name.isascii() else ():
        with suppress(UnicodeEncodeError):
            yield name.encode(encoding).decode("cp437")


def _group_by_tail(files: Iterable[PurePosixPath]) -> dict[str, list[PurePosixPath]]:
    """Files by each end of their paths, folded: `a.jpg`, `train/a.jpg`, …"""
    by_tail: dict[str, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        parts = fold_name(str(file)).split("/")
        for start in range(max(0, len(parts) - _MAX_DEPTH), len(parts)):
            by_tail["/".join(parts[start:])].append(file)
    return dict(by_tail)


def _closest_spelling(files: list[PurePosixPath], key: str) -> list[PurePosixPath]:
    """Those of several files whose name or path ends in the spelling that is closest to the tail or stem `key`."""
    length = len(PurePosixPath(key).parts)
    if key.endswith("/"):
        distances = [spelling_distance(file.stem, key[:-1]) for file in files]
    else:
        tails = ["/".join(PurePosixPath(str(file).replace("\\", "/")).parts[-length:]) for file in files]
        distances = [spelling_distance(tail, key) for tail in tails]
    shortest = min(distances)
    return [file for file, distance in zip(files, distances, strict=True) if distance == shortest]


def _in_split(files: list[PurePosixPath], split: str) -> list[PurePosixPath]:
    """The files in a folder that is called like the split, else below one, or else below one of the same purpose."""
    name = fold_name(split)
    below = [(file, [fold_name(part) for part in file.parent.parts]) for file in files]
    in_split = [file for file, parts in below if parts and parts[-1] == name]
    below_split = in_split or [file for file, parts in below if name in parts]
    if below_split or not (kind := split_kind(split)):
        return below_split
    return [file for file in files if split_kind(str(file.parent)) == kind]


class _Namesakes:
    """Files of the same name, by the folders that contain them."""

    def __init__(self, files: list[PurePosixPath]) -> None:
        self._by_ancestor = _group_by_ancestor(files)
        by_parent_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in files:
            by_parent_name[file.parent.name].append(file)
        self._by_parent_name = {name: _group_by_ancestor(group) for name, group in by_parent_name.items()}

    def nearest(self, near: PurePosixPath) -> list[PurePosixPath]:
        """The files with the most leading folders in common with `near`.

        Among these, files in `near` itself are preferred, then files in a folder of images, then those whose folders
        end like `near` (`train/north` for `Annotations/train/north`), then the least deep ones.
        """
        by_ancestor = self._by_parent_name.get(near.name, self._by_ancestor)
        close = next(by_ancestor[folder] for folder in (near, *near.parents) if folder in by_ancestor)
        siblings = [file for file in close if file.parent == near]
        in_image_folder = [file for file in close if any(part.lower() in IMAGE_FOLDERS for part in file.parts[:-1])]
        preferred = siblings or in_image_folder or close
        ranks = [(-count_common_tail(file.parent, near), len(file.parts)) for file in preferred]
        lowest = min(ranks)
        return [file for file, rank in zip(preferred, ranks, strict=True) if rank == lowest]


def count_common_tail(a: PurePosixPath, b: PurePosixPath) -> int:
    """The number of trailing parts that two paths have in common, in any spelling."""
    pairs = zip(reversed(a.parts), reversed(b.parts), strict=False)
    return sum(1 for _ in takewhile(lambda pair: fold_name(pair[0]) == fold_name(pair[1]), pairs))


def _group_by_ancestor(files: list[PurePosixPath]) -> dict[PurePosixPath, list[PurePosixPath]]:
    """The files below each folder, at any depth."""
    by_ancestor: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        for folder in file.parents:
            by_ancestor[folder].append(file)
    return dict(by_ancestor)


def _missing(name: str) -> Issue:
    return Issue("missing_image", f"image '{show_value(name)}' not found")
