"""An index of a data set's image files, to find the file that a record refers to."""

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from pipeline.data.image_files import describe_decoding_error, open_image_file
from pipeline.formats.records import Issue
from pipeline.formats.text import show_value

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
# Names of folders with images, as opposed to masks and previews of the same file names.
IMAGE_FOLDERS = {"jpegimages", "images", "image", "imgs", "img"}


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

    The time of a search doesn't depend on the number of files, even if many have the same name, such as video frames.
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
        """The distinct file names without folder and suffix."""
        return self._by_stem.keys()

    def find(self, name: str, near: PurePosixPath, split: str = "") -> str | Issue:
        """The file whose path has the most trailing parts in common with `name`, a path perhaps of another machine.

        Among several, a file in a folder named after the split is preferred, then one in a folder of the same name as
        `near`, the annotation file's folder, then the one nearest to `near`.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for start in range(max(0, len(parts) - self._depth), len(parts)):
            tail = "/".join(parts[start:])
            if tail in self._by_tail:
                return self._nearest(tail, self._by_tail[tail], near, split)
        return _missing(name)

    def find_stem(self, stem: str, near: PurePosixPath, split: str = "") -> str | Issue:
        """The file with this stem and any image suffix; among several, the same one as `find` prefers."""
        # A stem has no "/", so the key differs from those of `find`.
        return self._nearest(f"{stem}/", self._by_stem[stem], near, split) if stem in self._by_stem else _missing(stem)

    def _nearest(self, key: str, candidates: list[PurePosixPath], near: PurePosixPath, split: str) -> str | Issue:
        if len(candidates) == 1:
            return str(candidates[0])
        if (key, split) not in self._namesakes:
            in_split = [file for file in candidates if file.parent.name == split]
            below_split = in_split or [file for file in candidates if split in file.parent.parts]
            self._namesakes[key, split] = _Namesakes(below_split or candidates)
        nearest = self._namesakes[key, split].nearest(near)
        if len(nearest) > 1:
            name = show_value(key.rstrip("/"))
            return Issue("ambiguous_image", f"image '{name}' matches both {nearest[0]} and {nearest[1]}")
        return str(nearest[0])


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

        Among these, files in `near` itself are preferred, then files in a folder of images, then the least deep ones.
        """
        by_ancestor = self._by_parent_name.get(near.name, self._by_ancestor)
        close = next(by_ancestor[folder] for folder in (near, *near.parents) if folder in by_ancestor)
        siblings = [file for file in close if file.parent == near]
        in_image_folder = [file for file in close if any(part.lower() in IMAGE_FOLDERS for part in file.parts[:-1])]
        preferred = siblings or in_image_folder or close
        depth = min(len(file.parts) for file in preferred)
        return [file for file in preferred if len(file.parts) == depth]


def _group_by_ancestor(files: list[PurePosixPath]) -> dict[PurePosixPath, list[PurePosixPath]]:
    """The files below each folder, at any depth."""
    by_ancestor: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        for folder in file.parents:
            by_ancestor[folder].append(file)
    return dict(by_ancestor)


def _missing(name: str) -> Issue:
    return Issue("missing_image", f"image '{show_value(name)}' not found")
