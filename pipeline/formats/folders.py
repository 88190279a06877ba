"""What to call the splits of a data set that has a folder of annotations for each."""

from collections import Counter
from collections.abc import Collection
from pathlib import PurePosixPath

from pipeline.formats.images import PICTURES

_GENERIC = PICTURES | {"annotations", "annotation", "labels", "label", "label_2", "xmls", "json", "data"}


def by_folder(folders: Collection[PurePosixPath]) -> dict[PurePosixPath, str]:
    """A name for each folder: `all` where there is one, else what tells it from the others.

    `train/labels` and `labels/train` are both train; where two would be called the same, the whole path is the name.
    """
    if len(folders) == 1:
        return dict.fromkeys(folders, "all")
    telling = {folder: [part for part in folder.parts if part.lower() not in _GENERIC] for folder in folders}
    for names in (
        {folder: (parts or ["all"])[-1] for folder, parts in telling.items()},
        {folder: "/".join(parts or ["all"]) for folder, parts in telling.items()},
    ):
        if max(Counter(names.values()).values(), default=0) < 2:
            return names
    return {folder: str(folder) for folder in folders}
