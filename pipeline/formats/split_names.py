"""Names for splits, from the names of annotation files and folders."""

from collections import Counter
from collections.abc import Collection
from pathlib import PurePosixPath

from pipeline.formats.image_index import IMAGE_FOLDERS

# Names of annotation files that don't name a split: the folder's name is used instead.
_GENERIC_FILES = {
    "_annotations.coco", "_annotations", "annotations", "annotation", "instances", "coco", "default", "labels",
    "result", "detections",
}  # fmt: skip
_GENERIC_PARENTS = {"annotations", "annotation", "labels", ""}
_GENERIC_FOLDERS = IMAGE_FOLDERS | {"annotations", "annotation", "labels", "label", "label_2", "xmls", "json", "data"}


def name_splits_by_file(stems: dict[PurePosixPath, str]) -> dict[PurePosixPath, str]:
    """A split name for each annotation file, if each file is a split.

    The name is the file's stem (the value in `stems`), or the folder's name if the stem is a generic one. The folder's
    path is added if several files would have the same name.
    """
    names = {file: _file_name(file, stem) for file, stem in stems.items()}
    uses = Counter(names.values())
    return {file: name if uses[name] == 1 else _with_folders(file, name) for file, name in names.items()}


def _with_folders(file: PurePosixPath, name: str) -> str:
    """The folder's path and the name; a name that is the folder's stands there once."""
    folder = file.parent
    return str(folder) if folder.name == name else f"{folder}/{name}"


def _file_name(file: PurePosixPath, stem: str) -> str:
    if stem.lower() not in _GENERIC_FILES:
        return stem
    return next((folder.name for folder in file.parents if folder.name.lower() not in _GENERIC_PARENTS), "all")


def name_splits_by_folder(folders: Collection[PurePosixPath]) -> dict[PurePosixPath, str]:
    """A split name for each folder, if each folder is a split; `all` for all of them if their names don't differ.

    `train/labels` and `labels/train` are both `train`. Of `a/train` and `b/train`, both are called by their path.
    """
    specific = {
        folder: tuple(part for part in folder.parts if part.lower() not in _GENERIC_FOLDERS) for folder in folders
    }
    distinct = set(specific.values())
    if len(distinct) == 1:
        return dict.fromkeys(folders, "all")
    uses = Counter(parts[-1] for parts in distinct if parts)
    return {folder: _folder_name(parts, uses) for folder, parts in specific.items()}


def _folder_name(parts: tuple[str, ...], uses: Counter[str]) -> str:
    if not parts:
        return "all"
    return parts[-1] if uses[parts[-1]] == 1 else "/".join(parts)
