"""Names for splits, from the names of annotation files and folders."""

import os.path
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePosixPath

from pipeline.formats.image_index import IMAGE_FOLDERS
from pipeline.formats.split_kinds import split_kind

# Names of annotation files that don't name a split: the folder's name is used instead.
_GENERIC_FILES = {
    "_annotations.coco", "_annotations", "annotations", "annotation", "instances", "coco", "default", "labels",
    "result", "detections", "_annotations.createml", "metadata",
}  # fmt: skip
_GENERIC_PARENTS = {"annotations", "annotation", "labels", ""}
_GENERIC_FOLDERS = IMAGE_FOLDERS | {
    "annotations",
    "annotation",
    "labels",
    "label",
    "label_2",
    "xmls",
    "json",
    "data",
    "ann",
    "labeltxt",
}


def name_splits_by_file(stems: Mapping[PurePosixPath, str]) -> dict[PurePosixPath, str]:
    """A split name for each annotation file, if each file is a split.

    The name is the file's stem (the value in `stems`), or the folder's name if the stem is a generic one. A folder that
    tells the purpose comes before a name that doesn't: `train/north.json` is `train/north`. The folder's path is added
    if several files would have the same name.
    """
    common = _common_parts(file.parent for file in stems)
    names = {file: _with_purpose(file.parts[common:-1], _file_name(file, stem)) for file, stem in stems.items()}
    uses = Counter(names.values())
    return {file: name if uses[name] == 1 else _with_folders(file, name) for file, name in names.items()}


def _common_parts(folders: Iterable[PurePosixPath]) -> int:
    """The number of leading parts that all folders have in common: a data set may itself lie in a folder `test`."""
    return len(PurePosixPath(os.path.commonpath([f"/{folder}" for folder in folders])).parts) - 1


def _with_purpose(folders: tuple[str, ...], name: str) -> str:
    if split_kind(name):
        return name
    folder = next((folder for folder in reversed(folders) if split_kind(folder)), None)
    return f"{folder}/{name}" if folder else name


def _with_folders(file: PurePosixPath, name: str) -> str:
    """The folder's path and the name; a part that is the end of the folder's path stands there once."""
    folder = file.parent
    if folder.name == name or str(folder).endswith(f"/{name}"):
        return str(folder)
    return f"{folder}/{name.rsplit('/', 1)[-1]}"


def _file_name(file: PurePosixPath, stem: str) -> str:
    if stem.lower() not in _GENERIC_FILES:
        return stem
    return next((folder.name for folder in file.parents if folder.name.lower() not in _GENERIC_PARENTS), "all")


def name_splits_by_folder(folders: Collection[PurePosixPath]) -> dict[PurePosixPath, str]:
    """A split name for each folder, if each folder is a split; `all` for all of them if their names don't differ.

    `train/labels` and `labels/train` are both `train`, and `train/north/labels` is `train/north`. Of `a/train` and
    `b/train`, both are called by their path.
    """
    specific = {
        folder: tuple(part for part in folder.parts if part.lower() not in _GENERIC_FOLDERS) for folder in folders
    }
    distinct = set(specific.values())
    if len(distinct) < 2:
        return dict.fromkeys(folders, "all")
    common = _common_parts(PurePosixPath(*parts) for parts in distinct)
    short = {parts: _with_purpose(parts[common:-1], parts[-1]) for parts in distinct if parts}
    uses = Counter(short.values())
    return {folder: _folder_name(parts, short, uses) for folder, parts in specific.items()}


def _folder_name(parts: tuple[str, ...], short: Mapping[tuple[str, ...], str], uses: Counter[str]) -> str:
    if not parts:
        return "all"
    return short[parts] if uses[short[parts]] == 1 else "/".join(parts)
