"""The files that name YOLO's classes and images: data.yaml, Darknet's obj.data, or a list of class names."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import PipelineError
from pipeline.files import to_utf8
from pipeline.formats.dataset_files import Spellings, decode_text, is_blank, read_head, read_lines
from pipeline.formats.image_index import IMAGE_SUFFIXES
from pipeline.formats.text import is_utf8, show_value
from pipeline.yaml_files import check_structure

_SPLITS = ("train", "val", "valid", "test")
_YAML_NAMES = ("data.yaml", "data.yml")
_YAML_ENDINGS = (".yaml", ".yml")
_NOT_SPLITS = ("path", "names", "nc", "kpt_shape")
_LARGEST = 1 << 20  # bytes of a manifest: a larger file is another tool's
_NAMES_KEY = re.compile(r"""^\s*["']?names["']?\s*:""", re.MULTILINE)
_SPLIT_KEY = re.compile(r"""^\s*["']?(train|val|valid|test|path|nc)["']?\s*:""", re.MULTILINE)
_CORRECTION = "spaces for tabs and / for backslashes"
_DOUBLE_QUOTED = re.compile(r'"[^"\n]*"')
# What YAML makes of a Windows path in double quotes: "C:\new" has a line break. No path contains these characters.
_ESCAPES = str.maketrans(
    {
        character: f"/{letter}"
        for character, letter in zip("\0\a\b\t\n\v\f\r\x1b\x85\u2028\u2029", "0abtnvfreNLP", strict=True)
    }
)
_CLASS_LISTS = ("classes.txt", "obj.names", "_darknet.labels")  # and any other .names
_FALLBACK_CLASS_LISTS = ("names.txt", "labels.txt", "_classes.txt", "class_names.txt")


@dataclass(frozen=True)
class Manifest:
    """A file that names the classes, and usually the images of each split."""

    file: PurePosixPath
    class_names: dict[int, str]
    splits: dict[str, list[str]]  # folders, lists of images, or images; empty if the file names none
    keypoint_values: int | None = None  # numbers that follow the box in each line; None: the file doesn't state it
    remarks: tuple[str, ...] = ()

    @property
    def site(self) -> PurePosixPath:
        """The folder of the images that a list of classes belongs to, if there are several lists."""
        folder = self.file.parent
        return folder.parent if folder.name.lower() in ("labels", "label", "annotations") else folder


def find_manifests(folder: Path, files: list[PurePosixPath]) -> list[Manifest]:
    """The data.yaml of a data set; if there is none, its obj.data, its list of class names, or its YAML file of names.

    A data set may have one in the folder of each site or split, as LabelImg writes them.

    Raises:
        PipelineError: There are several manifests of one kind for the same images.
    """
    for read_manifests in (read_yaml_manifests, read_darknet_manifests, _read_class_lists, _read_names_alone):
        if manifests := read_manifests(folder, files):
            _check_sites(manifests)
            return manifests
    return []


def _check_sites(manifests: list[Manifest]) -> None:
    """Makes sure that several manifests belong to separate folders.

    Raises:
        PipelineError: They don't.
    """
    for number, manifest in enumerate(manifests):
        if other := next((earlier for earlier in manifests[:number] if _overlap(earlier, manifest)), None):
            raise PipelineError(f"{manifest.file}: a second list of classes, besides {other.file}; keep one")


def _overlap(a: Manifest, b: Manifest) -> bool:
    """Whether two manifests may describe the same images."""
    if a.splits and b.splits:
        return a.file.parent == b.file.parent
    return a.site.is_relative_to(b.site) or b.site.is_relative_to(a.site)


def read_yaml_manifests(folder: Path, files: list[PurePosixPath]) -> list[Manifest]:
    candidates = [file for file in files if file.suffix.lower() in _YAML_ENDINGS]
    return [manifest for file in candidates if (manifest := _read_yaml_manifest(folder, file, files)) is not None]


def _read_yaml_manifest(folder: Path, file: PurePosixPath, files: list[PurePosixPath]) -> Manifest | None:
    """The manifest in a YAML file; None if the file is another tool's.

    Raises:
        PipelineError: The file has splits and names, but isn't YAML, or its names aren't a list of classes.
    """
    content, remarks = _read_yaml(folder, file)
    splits = _read_splits(content, file.parent, files)
    if not _name_paths(splits, file.parent, files):
        return None
    class_names = _read_yaml_names(folder, file, content, files)
    if class_names is None:
        return None
    if class_names and content.get("nc", str(len(class_names))) != str(len(class_names)):
        nc = show_value(content["nc"])
        raise PipelineError(f"{file}: nc is {nc}, but there are {len(class_names)} names; correct one of them")
    return Manifest(file, class_names, splits, _count_keypoint_values(content.get("kpt_shape")), remarks)


def _read_yaml_names(
    folder: Path, file: PurePosixPath, content: dict[str, Any], files: list[PurePosixPath]
) -> dict[int, str] | None:
    """The class names that a data.yaml lists, or those of the file that it or the data set has instead.

    Returns:
        Empty if the file has only the number of classes; None if the file is another tool's.
    """
    names = content.get("names")
    if isinstance(names, (list, dict)):
        return _parse_class_names(file, names)
    if isinstance(names, str) and (class_list := resolve(names, file.parent, set(files))):
        return _read_class_list(folder, class_list)
    if names in (None, "", "null", "~") and _is_index(content.get("nc")):
        return next((manifest.class_names for manifest in _read_class_lists(folder, files)), {})
    if isinstance(names, str) and names not in ("", "null", "~"):
        raise PipelineError(f"{file}: names is {show_value(names)}, neither a list of class names nor a file of them")
    return None


def _read_yaml(folder: Path, file: PurePosixPath) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The mapping in a file, empty for anything else, and remarks on mistakes in it that don't hide its meaning.

    All values are text: a class may be called `no` or `1e3`.

    Raises:
        PipelineError: A file that names splits and classes isn't YAML.
    """
    path = folder / file
    if path.stat().st_size > _LARGEST:
        return {}, ()
    try:
        text = decode_text(path.read_bytes())
    except (OSError, UnicodeDecodeError) as error:
        if _is_manifest(read_head(path).decode(errors="replace")):
            raise PipelineError(f"{file}: not read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
        return {}, ()
    try:
        return _load_mapping(text, file), ()
    except (YAMLError, ValueError, TypeError, RecursionError) as error:  # perhaps another tool's, with tags or a stream
        if not _is_manifest(text):
            return {}, ()
        try:
            return _load_mapping(_correct_yaml(text), file), (
                f"{file}: {_describe_yaml_error(error)}; read with {_CORRECTION}",
            )
        except (YAMLError, ValueError, TypeError, RecursionError):
            raise PipelineError(f"{file}: not YAML: {_describe_yaml_error(error)}; correct it") from None


def _load_mapping(text: str, file: PurePosixPath) -> dict[str, Any]:
    check_structure(text)
    content = YAML(typ="base", pure=True).load(text)
    if isinstance(content, str) and _is_manifest(text):
        raise PipelineError(f"{file}: not YAML: its keys and values are not apart; put a space after each colon")
    return content if isinstance(content, dict) else {}


def _is_manifest(text: str) -> bool:
    return bool(_NAMES_KEY.search(text) and _SPLIT_KEY.search(text))


def _correct_yaml(text: str) -> str:
    """The text with spaces for tabs, and slashes for the backslashes of Windows in double quotes."""
    return _DOUBLE_QUOTED.sub(lambda match: match[0].replace("\\", "/"), text.expandtabs(4))


def _describe_yaml_error(error: Exception) -> str:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    problem = error.problem if isinstance(error, MarkedYAMLError) else None
    reason = (problem or str(error) or type(error).__name__).splitlines()[0]
    return f"line {mark.line + 1}: {reason}" if mark else reason


def _read_splits(content: dict[str, Any], base: PurePosixPath, files: list[PurePosixPath]) -> dict[str, list[str]]:
    """YOLO's splits, and any other key (`trainval`) whose paths all exist, joined with the value of `path`."""
    paths = {key: parsed for key, value in content.items() if (parsed := _parse_paths(value))}
    root = paths.pop("path", [""])[0]
    if root:
        paths = {key: [f"{root}/{path}" for path in entries] for key, entries in paths.items()}
    has_other_keys = bool(paths.keys() - {*_SPLITS, *_NOT_SPLITS})
    existing = {*files, *ancestors(files)} if has_other_keys else set()
    return {
        key: entries
        for key, entries in paths.items()
        if key in _SPLITS
        or (key not in _NOT_SPLITS and all(resolve(path, base, existing) is not None for path in entries))
    }


def _parse_paths(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value.translate(_ESCAPES)] if value not in ("", "null", "~") else []
    is_text = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    return [entry.translate(_ESCAPES) for entry in value] if is_text else []


def _name_paths(splits: dict[str, list[str]], base: PurePosixPath, files: list[PurePosixPath]) -> bool:
    """Whether any value looks like a path or exists. The files of other tools have a `train`, too."""
    paths = [path for entries in splits.values() for path in entries]
    if any("/" in path or "\\" in path or path.endswith(".txt") for path in paths):
        return True
    existing = {*files, *ancestors(files)} if paths else set()
    return any(resolve(path, base, existing) is not None for path in paths)


def ancestors(files: list[PurePosixPath]) -> set[PurePosixPath]:
    """All folders that contain any of the files, at any depth."""
    return {folder for parent in {file.parent for file in files} for folder in (parent, *parent.parents)}


def _parse_class_names(file: PurePosixPath, value: list[Any] | dict[Any, Any]) -> dict[int, str]:
    items = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    valid = [(key, name.strip()) for key, name in items if isinstance(name, str) and is_utf8(name) and _is_index(key)]
    class_names = {int(key): name for key, name in valid if name}
    if not class_names or len(class_names) < len(items):
        raise PipelineError(f"{file}: names must be a list of class names, or class names by number")
    return _check_unique(file, class_names)


def _check_unique(file: PurePosixPath, class_names: dict[int, str]) -> dict[int, str]:
    numbers: dict[str, int] = {}
    for number, name in class_names.items():
        if name in numbers:
            raise PipelineError(f"{file}: classes {numbers[name]} and {number} are both called {name!r}; rename one")
        numbers[name] = number
    return class_names


def _is_index(key: Any) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 10)


def _count_keypoint_values(shape: Any) -> int | None:
    if not isinstance(shape, list) or len(shape) != 2 or not all(_is_index(side) for side in shape):
        return None
    return int(shape[0]) * int(shape[1])


def read_darknet_manifests(folder: Path, files: list[PurePosixPath]) -> list[Manifest]:
    candidates = [file for file in files if file.suffix.lower() == ".data"]
    return [manifest for file in candidates if (manifest := _read_darknet_manifest(folder, file, files)) is not None]


def _read_darknet_manifest(folder: Path, file: PurePosixPath, files: list[PurePosixPath]) -> Manifest | None:
    """The manifest in an obj.data; None if the file is another tool's."""
    if (folder / file).stat().st_size > _LARGEST:
        return None
    try:
        pairs = [line.partition("=") for line in read_lines(folder, file)]
    except PipelineError:
        return None
    content = {key.strip(): value.strip() for key, _, value in pairs}
    splits = {split: [content[split]] for split in _SPLITS if content.get(split)}
    if not splits or not (content.get("names") or content.get("classes", "").isdecimal()):
        return None
    if not content.get("names"):
        return Manifest(file, next((listed.class_names for listed in _read_class_lists(folder, files)), {}), splits)
    class_list = resolve(content["names"], file.parent, set(files))
    if class_list is None:
        raise PipelineError(f"{file}: names: {show_value(content['names'])} not found; correct the path")
    return Manifest(file, _read_class_list(folder, class_list), splits)


def find_class_lists(files: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """The files that are lists of class names by their own names; less specific names only if there are no others."""
    lists = [file for file in files if file.name in _CLASS_LISTS or file.suffix == ".names"]
    return lists or [file for file in files if file.name in _FALLBACK_CLASS_LISTS]


def describe_useless_manifests(folder: Path, files: Sequence[PurePosixPath]) -> list[str]:
    """A line for each file that should name classes or splits, to judge by its name, and is empty or no mapping."""
    names = (*_YAML_NAMES, "obj.data", *_CLASS_LISTS)
    lines = []
    for file in files:
        if (file.name in names or file.suffix == ".names") and is_blank(folder / file):
            lines.append(f"{file}: the file is empty")
        elif file.name in _YAML_NAMES and not _read_yaml(folder, file)[0]:
            lines.append(f"{file}: left out, since it has no keys, such as names, train and val")
    return lines


def find_lists(folder: Path, files: Sequence[PurePosixPath], base: PurePosixPath) -> dict[str, list[str]]:
    """Lists of images, such as train.txt, in the folder `base`, or else in the data set's folder, by split."""
    for place in dict.fromkeys((base, PurePosixPath())):
        lists = {split: place / f"{split}.txt" for split in _SPLITS}
        splits = {split: [str(file)] for split, file in lists.items() if file in files and _is_list(folder / file)}
        if splits:
            return splits
    return {}


def _is_list(path: Path) -> bool:
    first_line = to_utf8(read_head(path)).decode(errors="replace").lstrip().split("\n")[0]
    return PurePosixPath(first_line.strip()).suffix.lower() in IMAGE_SUFFIXES


def _read_class_lists(folder: Path, files: list[PurePosixPath]) -> list[Manifest]:
    """The lists of class names; copies of the same list count as one."""
    manifests = [
        Manifest(file, class_names, find_lists(folder, files, file.parent))
        for file in find_class_lists(files)
        if (class_names := _read_class_list(folder, file))
    ]
    is_same = all(manifest.class_names == manifests[0].class_names for manifest in manifests)
    return manifests[:1] if is_same else manifests


def _read_names_alone(folder: Path, files: list[PurePosixPath]) -> list[Manifest]:
    """The class names of YAML files that have names and name no splits; copies of the same list count as one."""
    manifests = []
    for file in files:
        content, remarks = _read_yaml(folder, file) if file.suffix.lower() in _YAML_ENDINGS else ({}, ())
        if isinstance(names := content.get("names"), (list, dict)):
            splits, values = find_lists(folder, files, file.parent), _count_keypoint_values(content.get("kpt_shape"))
            manifests.append(Manifest(file, _parse_class_names(file, names), splits, values, remarks))
    is_same = all(manifest.class_names == manifests[0].class_names for manifest in manifests)
    return manifests[:1] if is_same else manifests


def _read_class_list(folder: Path, file: PurePosixPath) -> dict[int, str]:
    return _check_unique(file, dict(enumerate(read_lines(folder, file))))


def resolve(text: str, base: PurePosixPath, existing: set[PurePosixPath]) -> PurePosixPath | None:
    """The existing path that a path, perhaps of another machine, refers to.

    It is the longest tail of the path that exists below `base`, the manifest's folder, or below the data set's folder;
    in another spelling, if none exists in the same one.
    """
    parts = [part for part in PurePosixPath(text.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    tails = [PurePosixPath(*parts[start:]) for start in range(len(parts))]
    if not parts and base in existing:
        return base
    paths = [root / tail for tail in tails for root in dict.fromkeys((base, PurePosixPath()))]
    match = next((path for path in paths if path in existing), None)
    if match is None:
        spellings = Spellings(map(str, existing))
        match = next((PurePosixPath(other) for path in paths if (other := spellings.find(str(path)))), None)
    return match
