"""What to call the splits of a data set that has a folder of annotations for each."""

from collections import Counter
from collections.abc import Collection
from pathlib import PurePosixPath

from pipeline.formats.image_index import IMAGE_FOLDERS

_GENERIC = IMAGE_FOLDERS | {"annotations", "annotation", "labels", "label", "label_2", "xmls", "json", "data"}


def by_folder(folders: Collection[PurePosixPath]) -> dict[PurePosixPath, str]:
    """A name for the split of each folder: what tells it from the others, or `all` where nothing does.

    `train/labels` and `labels/train` are both train; `a/train` beside `b/train` are called so.
    """
    telling = {folder: tuple(part for part in folder.parts if part.lower() not in _GENERIC) for folder in folders}
    different = set(telling.values())
    if len(different) == 1:
        return dict.fromkeys(folders, "all")
    uses = Counter(parts[-1] for parts in different if parts)
    return {folder: _name(parts, uses) for folder, parts in telling.items()}


def _name(parts: tuple[str, ...], uses: Counter[str]) -> str:
    if not parts:
        return "all"
    return parts[-1] if uses[parts[-1]] == 1 else "/".join(parts)
