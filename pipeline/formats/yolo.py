"""YOLO's text files, one an image: class number, then shares of the image's width and height.

Formats: https://docs.ultralytics.com/datasets/detect/ (data.yaml), https://docs.ultralytics.com/datasets/segment/
(polygons), https://docs.ultralytics.com/datasets/pose/ (key points), https://github.com/AlexeyAB/darknet (obj.data,
obj.names and lists of images), and classes.txt alone, as LabelImg and Label Studio write it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.images import PICTURES, SUFFIXES, ImageFiles, listed
from pipeline.formats.naming import by_folder
from pipeline.formats.records import Box, Fault, RawDataset, RawImage, RawObject, RawSplit
from pipeline.formats.shapes import around
from pipeline.formats.sizes import size
from pipeline.formats.texts import lines

_SPLITS = ("train", "val", "valid", "test")
_LARGEST = 1 << 20  # bytes of a file that lists classes
_NAMES = ("classes.txt", "obj.names")


@dataclass(frozen=True)
class _Manifest:
    """A file that says what the classes are called, and mostly where the images of each split are."""

    file: PurePosixPath
    names: dict[int, str]
    splits: dict[str, list[str]]  # folders, lists of images, or images; empty: wherever the labels are
    keypoints: int = 0  # numbers of a line after the box's


def evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    found = _yamls(folder, files) or _darknets(folder, files)
    if found:
        return found[0].file
    known = {file.with_suffix("") for file in files if file.suffix.lower() in SUFFIXES}
    stems = {path.name for path in known}
    for names in _lists_of_names(folder, files):
        label = next((file for file in _label_files(folder, files) if file.stem in stems), None)
        if label is not None:
            return names.file
    return None


def read(folder: Path) -> RawDataset:
    """Reads the data set of a data.yaml; where there is none, of an obj.data, else of a classes.txt.

    An image without a label file is one without objects, as YOLO trains on it. A label file of a split's folder whose
    image is missing is a fault. A `test` that isn't there is left out, since exports name one all the same.

    Raises:
        PipelineError: there is none of these files, or several of a kind; it names no classes, or a list or folder
            that isn't there.
    """
    files = listed(folder)
    manifest = _manifest(folder, files)
    reader = _Reader(folder, files, manifest)
    if manifest.splits:
        places = {name: reader.places(name, entries) for name, entries in manifest.splits.items()}
        splits = {name: RawSplit(tuple(reader.split(found))) for name, found in places.items() if found}
    else:
        splits = reader.wherever()
    categories = tuple(Category(number, name) for number, name in sorted(manifest.names.items()))
    return RawDataset(categories, splits, reader.images.count)


def _manifest(folder: Path, files: list[PurePosixPath]) -> _Manifest:
    for kind in (_yamls, _darknets, _lists_of_names):
        found = kind(folder, files)
        if len(found) > 1:
            raise PipelineError(f"{found[1].file}: a second list of classes beside {found[0].file}; keep one of them")
        if found:
            return found[0]
    raise PipelineError(
        f"{folder}: no YOLO data set found: a data.yaml, an obj.data or a classes.txt names its classes"
    )


# Manifests


def _yamls(folder: Path, files: list[PurePosixPath]) -> list[_Manifest]:
    candidates = [file for file in files if file.suffix.lower() in (".yaml", ".yml")]
    return [found for file in candidates if (found := _from_yaml(folder, file)) is not None]


def _from_yaml(folder: Path, file: PurePosixPath) -> _Manifest | None:
    """None for YAML that is not YOLO's.

    Raises:
        PipelineError: it has splits and names, but its names are no list of classes.
    """
    content = _yaml(folder / file)
    entries = {name: _entries(content.get(name)) for name in _SPLITS}
    splits = {name: found for name, found in entries.items() if found}
    if not splits or not isinstance(content.get("names"), (list, dict)):
        return None
    names = _names(file, content["names"])
    if content.get("nc", str(len(names))) != str(len(names)):
        raise PipelineError(f"{file}: nc is {content['nc']}, and it has {len(names)} names; mend the one that is wrong")
    root = content.get("path")
    if isinstance(root, str) and root:
        splits = {name: [f"{root}/{entry}" for entry in found] for name, found in splits.items()}
    return _Manifest(file, names, splits, _keypoints(content.get("kpt_shape")))


def _yaml(path: Path) -> dict[str, Any]:
    """The mapping in a file, all values as text: a class may be called `no` or `1e3`. Empty for anything else."""
    if path.stat().st_size > _LARGEST:
        return {}
    try:
        content = YAML(typ="base", pure=True).load(path.read_text(encoding="utf-8-sig"))
    except (YAMLError, ValueError, TypeError, RecursionError):  # another tool's, which may have tags or be a stream
        return {}
    return content if isinstance(content, dict) else {}


def _entries(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value] if value not in ("", "null", "~") else []
    texts = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    return list(value) if texts else []


def _names(file: PurePosixPath, value: list[Any] | dict[Any, Any]) -> dict[int, str]:
    pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
    names = {int(key): name.strip() for key, name in pairs if isinstance(name, str) and name.strip() and _whole(key)}
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


def _darknets(folder: Path, files: list[PurePosixPath]) -> list[_Manifest]:
    candidates = [file for file in files if file.suffix.lower() == ".data"]
    return [found for file in candidates if (found := _from_darknet(folder, file, files)) is not None]


def _from_darknet(folder: Path, file: PurePosixPath, files: list[PurePosixPath]) -> _Manifest | None:
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
    listing = _resolved(content["names"], file.parent, set(files))
    if listing is None:
        raise PipelineError(f"{file}: its list of classes {content['names']!r} is not there")
    return _Manifest(file, _listed_names(folder, listing), splits)


def _lists_of_names(folder: Path, files: list[PurePosixPath]) -> list[_Manifest]:
    """Lists of classes; the same list in several folders is one."""
    candidates = [file for file in files if file.name in _NAMES and (folder / file).stat().st_size <= _LARGEST]
    found = [_Manifest(file, names, {}) for file in candidates if (names := _listed_names(folder, file))]
    return found[:1] if found and all(one.names == found[0].names for one in found) else found


def _listed_names(folder: Path, file: PurePosixPath) -> dict[int, str]:
    return _different(file, dict(enumerate(lines(folder, file))))


def _resolved(entry: str, base: PurePosixPath, known: set[PurePosixPath]) -> PurePosixPath | None:
    """What a path of another machine means here: its longest end that is there, beside the manifest or at the top."""
    parts = [part for part in PurePosixPath(entry.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    ends = [PurePosixPath(*parts[cut:]) for cut in range(len(parts))]
    homes = dict.fromkeys((base, PurePosixPath()))
    if not parts and base in known:
        return base
    return next((home / end for end in ends for home in homes if home / end in known), None)


# Images and their labels


@dataclass(frozen=True)
class _Place:
    """An image to read: what it was called, and the file of its labels, where there is one."""

    image: str | Fault
    where: PurePosixPath
    label: PurePosixPath | None


class _Reader:
    def __init__(self, folder: Path, files: list[PurePosixPath], manifest: _Manifest) -> None:
        self.images = ImageFiles(files)
        self._folder = folder
        self._files = files
        self._manifest = manifest
        self._folders = {parent for file in files for parent in file.parents}
        self._texts = {file for file in files if file.suffix == ".txt"}
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in self._texts:
            self._by_name[file.name].append(file)

    def places(self, split: str, entries: list[str]) -> list[_Place]:
        """The images of a split, given as folders, lists or images.

        Raises:
            PipelineError: one of them isn't there.
        """
        found: list[_Place] = []
        for entry in entries:
            place = _resolved(entry, self._manifest.file.parent, self._folders | set(self._files))
            if place is None and split != "test":
                raise PipelineError(
                    f"{self._manifest.file}: its {split} {entry!r} is not there; mend it or leave it out"
                )
            if place in self._folders:
                found += self._of_folder(place)
            elif place is not None and place.suffix.lower() in SUFFIXES:
                found.append(self._place(place))
            elif place is not None:
                found += self._of_list(place, split)
        return found

    def _of_folder(self, place: PurePosixPath) -> list[_Place]:
        pictures = [file for file in self._files if file.suffix.lower() in SUFFIXES and file.is_relative_to(place)]
        found = [self._place(file) for file in pictures]
        used = {one.label for one in found}
        homes = {_among_labels(place), place}
        strays = [
            file
            for file in sorted(self._texts - used)
            if any(file.is_relative_to(home) for home in homes) and _is_label(self._folder, file)
        ]
        return found + [
            _Place(Fault("missing_image", f"its image {file.stem!r} is not there"), file, file) for file in strays
        ]

    def _of_list(self, listing: PurePosixPath, split: str) -> list[_Place]:
        return [self._listed(line, listing, split) for line in lines(self._folder, listing)]

    def _listed(self, line: str, listing: PurePosixPath, split: str) -> _Place:
        said = PurePosixPath(
            *(part for part in PurePosixPath(line.replace("\\", "/")).parts if part not in ("/", ".."))
        )
        image = self.images.named(str(said), listing.parent, split)
        if isinstance(image, Fault):
            return _Place(image, listing, self._label_of(said))
        found = self._place(PurePosixPath(image))
        return found if found.label is not None else _Place(image, said, self._label_of(said))

    def _place(self, image: PurePosixPath) -> _Place:
        beside = image.with_suffix(".txt")
        label = next((file for file in (_among_labels(beside), beside) if file in self._texts), None)
        return _Place(str(image), image, label)

    def _label_of(self, said: PurePosixPath) -> PurePosixPath | None:
        """The label file that shares the longest end, a folder at least, with where a list says that it is."""
        beside = said.with_suffix(".txt")
        wanted = [_among_labels(beside), beside]
        shared = {file: max(_end(file, path) for path in wanted) for file in self._by_name.get(beside.name, [])}
        best = max(shared, key=lambda file: shared[file], default=None)
        return best if best is not None and shared[best] > 1 else None

    def split(self, places: Iterable[_Place]) -> Iterable[RawImage]:
        for place in places:
            yield self._image(place)

    def wherever(self) -> dict[str, RawSplit]:
        """Without a manifest of splits: each folder of pictures with label files is one."""
        own = [file for file in _label_files(self._folder, self._files) if file != self._manifest.file]
        pictures = [file for file in self._files if file.suffix.lower() in SUFFIXES]
        found = {file: self._place(file) for file in pictures}
        placed = {one.label for one in found.values()}
        apart = [file for file in own if file not in placed]  # labels neither beside nor in a parallel folder
        images = {label: self.images.of_stem(label.stem, label.parent) for label in apart}
        found |= {
            PurePosixPath(path): _Place(path, label, label) for label, path in images.items() if isinstance(path, str)
        }
        homes = {file.parent for file, one in found.items() if one.label is not None}
        names = by_folder(sorted(homes))
        splits: dict[str, list[RawImage]] = {name: [] for name in names.values()}
        for file, one in sorted(found.items()):
            if file.parent in homes:
                splits[names[file.parent]].append(self._image(one))
        lost = [_Place(fault, label, label) for label, fault in images.items() if isinstance(fault, Fault)]
        if lost:
            splits.setdefault(next(iter(splits), "all"), []).extend(self.split(lost))
        return {name: RawSplit(tuple(found)) for name, found in splits.items()}

    def _image(self, place: _Place) -> RawImage:
        where = str(place.label or place.where)
        if isinstance(place.image, Fault):
            return RawImage(where, "", fault=place.image)
        if place.label is None:
            return RawImage(where, place.image)
        pixels = size(self._folder / place.image)
        if isinstance(pixels, Fault):
            return RawImage(where, "", fault=pixels)
        try:
            rows = lines(self._folder, place.label)
        except PipelineError:
            return RawImage(where, "", fault=Fault("record", "it is not UTF-8 text"))
        objects = (self._object(f"{where}: object {number}", row, pixels) for number, row in enumerate(rows, 1))
        return RawImage(where, place.image, objects=tuple(objects))

    def _object(self, where: str, row: str, pixels: tuple[int, int]) -> RawObject:
        numbers = _numbers(row)
        box = _box(numbers, self._manifest.keypoints, pixels)
        if isinstance(box, Fault):
            return RawObject(where, "", (0, 0, 0, 0), fault=box)
        name = self._manifest.names.get(int(numbers[0])) if numbers[0].is_integer() else None
        if name is None:
            fault = Fault("unknown_class", f"its class {numbers[0]:g} is not in {self._manifest.file}")
            return RawObject(where, "", box, fault=fault)
        return RawObject(where, name, box)


def _among_labels(file: PurePosixPath) -> PurePosixPath:
    """The path with its last folder of pictures called `labels`, as YOLO looks for label files."""
    parts = list(file.parts)
    last = max((place for place, part in enumerate(parts) if part.lower() in PICTURES), default=None)
    if last is not None:
        parts[last] = "labels"
    return PurePosixPath(*parts)


def _end(one: PurePosixPath, other: PurePosixPath) -> int:
    """How many parts two paths share, counted from their ends."""
    count = 0
    for left, right in zip(reversed(one.parts), reversed(other.parts), strict=False):
        if left != right:
            break
        count += 1
    return count


def _label_files(folder: Path, files: list[PurePosixPath]) -> Iterable[PurePosixPath]:
    return (file for file in files if file.suffix == ".txt" and _is_label(folder, file))


def _is_label(folder: Path, file: PurePosixPath) -> bool:
    """Whether the first line is an object's: a class number and shares of the image."""
    with (folder / file).open("rb") as content:
        first = content.read(4096).lstrip().split(b"\n")[0].decode("utf-8", "replace")
    numbers = _numbers(first)
    shares = numbers[1:5]
    return len(numbers) >= 5 and numbers[0].is_integer() and numbers[0] >= 0 and all(0 <= one <= 1 for one in shares)


def _numbers(row: str) -> list[float]:
    """The numbers of a line; empty where one isn't a number."""
    try:
        return [float(column) for column in row.split()]
    except ValueError:
        return []


def _box(numbers: Sequence[float], keypoints: int, pixels: tuple[int, int]) -> Box | Fault:
    """The box of a line, in pixels: centre and size, with key points after them or not, or around a polygon."""
    columns = len(numbers)
    width, height = pixels
    if columns in (5, 5 + keypoints):
        _, x, y, w, h = numbers[:5]
        return ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    if columns >= 7 and columns % 2 and not keypoints:
        return around([(x * width, y * height) for x, y in zip(numbers[1::2], numbers[2::2], strict=True)])
    return Fault("record", "it is no class number with a box's four numbers or a polygon's points")
