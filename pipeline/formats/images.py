"""Which image file a record means, wherever in the data set's folder it lies."""

from collections import defaultdict
from pathlib import Path, PurePosixPath

from pipeline.formats.records import Fault

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"}
# Where data sets keep their pictures, as against masks and previews of the same name.
PICTURES = {"jpegimages", "images", "image", "imgs", "img"}


def listed(folder: Path) -> list[PurePosixPath]:
    """Every file below `folder`, sorted, as relative paths; hidden files and macOS's leftovers are left out."""
    found = (PurePosixPath(path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(part.startswith(".") or part == "__MACOSX" for part in path.parts))


class ImageFiles:
    """The image files of a data set, found by what a record calls them."""

    def __init__(self, files: list[PurePosixPath]) -> None:
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        self._by_stem: dict[str, list[PurePosixPath]] = defaultdict(list)
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        self.count = len(images)
        for image in images:
            self._by_name[image.name].append(image)
            self._by_stem[image.stem].append(image)

    def named(self, name: str, near: PurePosixPath, split: str = "") -> str | Fault:
        """The file that ends with the path `name`; its folders may be another machine's.

        Of several, the one in a folder named after the split wins, then the one nearest to the annotation
        file's folder `near`.
        """
        wanted = PurePosixPath(name.replace("\\", "/"))
        same_name = self._by_name.get(wanted.name, [])
        whole = [file for file in same_name if file.parts[-len(wanted.parts) :] == wanted.parts]
        return _nearest(whole or same_name, name, near, split)

    def of_stem(self, stem: str, near: PurePosixPath) -> str | Fault:
        """The file called `stem` with whatever ending: nearest to `near`, rather in a folder of pictures."""
        return _nearest(self._by_stem.get(stem, []), stem, near, "")


def _nearest(candidates: list[PurePosixPath], name: str, near: PurePosixPath, split: str) -> str | Fault:
    if not candidates:
        return Fault("missing_image", f"its image {name!r} is not there")
    ranks = {file: _rank(file, near, split) for file in candidates}
    best = max(ranks.values())
    first, *others = [file for file in candidates if ranks[file] == best]
    if others:
        return Fault("ambiguous_image", f"its image {name!r} may be {first} or {others[0]}")
    return str(first)


def _rank(file: PurePosixPath, near: PurePosixPath, split: str) -> tuple[bool, int, bool]:
    shared = 0
    for one, other in zip(file.parent.parts, near.parts, strict=False):
        if one != other:
            break
        shared += 1
    beside = file.parent == near or file.parent.name.lower() in PICTURES
    return (split in file.parent.parts, shared, beside)
