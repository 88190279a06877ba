"""How YOLO's classes are called and where its images are: data.yaml, darknet's obj.data, or a list of names."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import PipelineError
from pipeline.formats.naming import is_utf8, show_value
from pipeline.formats.text_files import lines

_SPLITS = ("train", "val", "valid", "test")
_NO_SPLITS = ("path", "names", "nc", "kpt_shape")
_LARGEST = 1 << 20  # bytes of a file that lists classes
_NAMES = ("classes.txt", "obj.names")


@dataclass(frozen=True)
class Manifest:
    """A file that says what the classes are called, and mostly where the images of each split are."""

    file: PurePosixPath
    names: dict[int, str]
    splits: dict[str, list[str]]  # folders, lists of images, or images; empty: wherever the labels are
    keypoints: int = 0  # numbers of a line after the box's


def manifest_of(folder: Path, files: list[PurePosixPath]) -> Manifest:
    for kind in (yamls, darknets, lists_of_names):
        found = kind(folder, files)
        if len(found) > 1:
            raise PipelineError(f"{found[1].file}: a second list of classes beside {found[0].file}; keep one of them")
        if found:
            return found[0]
    raise PipelineError(
        f"{folder}: no YOLO data set found: a data.yaml, an obj.data or a classes.txt names its classes"
    )


def yamls(folder: Path, files: list[PurePosixPath]) -> list[Manifest]:
    candidates = [file for file in files if file.suffix.lower() in (".yaml", ".yml")]
    return [found for file in candidates if (found := _from_yaml(folder, file, files)) is not None]


def _from_yaml(folder: Path, file: PurePosixPath, files: list[PurePosixPath]) -> Manifest | None:
    """None for YAML that is not YOLO's.

    Raises:
        PipelineError: it has splits and names, but its names are no list of classes.
    """
    content = _yaml(folder / file)
    splits = _own_splits(content, file.parent, files)
    if not isinstance(content.get("names"), (list, dict)) or not _are_paths(splits, file.parent, files):
        return None
    names = _names(file, content["names"])
    if content.get("nc", str(len(names))) != str(len(names)):
        raise PipelineError(
            f"{file}: nc is {show_value(content['nc'])}, and it has {len(names)} names; mend the one that is wrong"
        )
    root = content.get("path")
    if isinstance(root, str) and root:
        splits = {name: [f"{root}/{entry}" for entry in found] for name, found in splits.items()}
    return Manifest(file, names, splits, _keypoints(content.get("kpt_shape")))


def _yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file, all values as text: a class may be called `no` or `1e3`. Empty for anything else."""
    if path.stat().st_size > _LARGEST:
        return {}
    try:
        content = YAML(typ="base", pure=True).load(path.read_text(encoding="utf-8-sig"))
    except (
        YAMLError,
        OSError,
        ValueError,
        TypeError,
        RecursionError,
    ):  # another tool's, which may have tags or be a stream
        return {}
    return content if isinstance(content, dict) else {}


def _entries(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value not in ("", "null", "~") else []
    texts = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    return list(value) if texts else []


def _own_splits(content: dict[str, Any], base: PurePosixPath, files: list[PurePosixPath]) -> dict[str, list[str]]:
    """YOLO's own, and any other key (`trainval`) whose every entry is there."""
    entries = {name: found for name, value in content.items() if (found := _entries(value))}
    known = {*files, *folders(files)} if entries.keys() - {*_SPLITS, *_NO_SPLITS} else set()
    return {
        name: found
        for name, found in entries.items()
        if name in _SPLITS
        or (name not in _NO_SPLITS and all(resolved(entry, base, known) is not None for entry in found))
    }


def _are_paths(splits: dict[str, list[str]], base: PurePosixPath, files: list[PurePosixPath]) -> bool:
    """Whether one of the entries is a path by its looks, or is there: other tools have a `train`, too."""
    entries = [entry for found in splits.values() for entry in found]
    if any("/" in entry or "\\" in entry or entry.endswith(".txt") for entry in entries):
        return True
    known = {*files, *folders(files)} if entries else set()
    return any(resolved(entry, base, known) is not None for entry in entries)


def folders(files: list[PurePosixPath]) -> set[PurePosixPath]:
    """All that the files lie in."""
    return {above for parent in {file.parent for file in files} for above in (parent, *parent.parents)}


def _names(file: PurePosixPath, value: list[Any] | dict[Any, Any]) -> dict[int, str]:
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    named = [(key, name.strip()) for key, name in pairs if isinstance(name, str) and is_utf8(name) and _whole(key)]
    names = {int(key): name for key, name in named if name}
    if not names or len(names) < len(pairs):
        raise PipelineError(f"{file}: its names are no list of class names, nor one by their numbers")
    return _different(file, names)


def _different(file: PurePosixPath, names: dict[int, str]) -> dict[int, str]:
    seen: dict[str, int] = {}
    for number, name in names.items():
        if name in seen:
            raise PipelineError(
                f"{file}: classes {seen[name]} and {number} are both called {name!r}; each needs its own"
            )
        seen[name] = number
    return names


def _whole(key: Any) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10)


def _keypoints(shape: Any) -> int:
    if not isinstance(shape, list) or len(shape) != 2 or not all(_whole(side) for side in shape):
        return 0
    return int(shape[0]) * int(shape[1])


def darknets(folder: Path, files: list[PurePosixPath]) -> list[Manifest]:
    candidates = [file for file in files if file.suffix.lower() == ".data"]
    return [found for file in candidates if (found := _from_darknet(folder, file, files)) is not None]


def _from_darknet(folder: Path, file: PurePosixPath, files: list[PurePosixPath]) -> Manifest | None:
    """None for a file that is not darknet's."""
    if (folder / file).stat().st_size > _LARGEST:
        return None
    try:
        pairs = [line.partition("=") for line in lines(folder, file)]
    except PipelineError:
        return None
    content = {key.strip(): value.strip() for key, _, value in pairs}
    splits = {name: [content[name]] for name in _SPLITS if content.get(name)}
    if not splits or not content.get("names"):
        return None
    listing = resolved(content["names"], file.parent, set(files))
    if listing is None:
        raise PipelineError(f"{file}: its list of classes {show_value(content['names'])} is not there")
    return Manifest(file, _listed_names(folder, listing), splits)


def name_lists(files: list[PurePosixPath]) -> list[PurePosixPath]:
    return [file for file in files if file.name in _NAMES]


def lists_of_names(folder: Path, files: list[PurePosixPath]) -> list[Manifest]:
    """Lists of classes; the same list in several folders is one."""
    found = [Manifest(file, names, {}) for file in name_lists(files) if (names := _listed_names(folder, file))]
    return found[:1] if found and all(one.names == found[0].names for one in found) else found


def _listed_names(folder: Path, file: PurePosixPath) -> dict[int, str]:
    return _different(file, dict(enumerate(lines(folder, file))))


def resolved(entry: str, base: PurePosixPath, known: set[PurePosixPath]) -> PurePosixPath | None:
    """What a path of another machine means here: its longest end that is there, beside the manifest or at the top."""
    parts = [part for part in PurePosixPath(entry.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    ends = [PurePosixPath(*parts[cut:]) for cut in range(len(parts))]
    homes = dict.fromkeys((base, PurePosixPath()))
    if not parts and base in known:
        return base
    return next((home / end for end in ends for home in homes if home / end in known), None)
