"""YOLO's text files, one an image: class number, then shares of the image's width and height.

Formats: https://docs.ultralytics.com/datasets/detect/ (data.yaml), https://docs.ultralytics.com/datasets/segment/
(polygons), https://docs.ultralytics.com/datasets/pose/ (key points), https://github.com/AlexeyAB/darknet (obj.data,
obj.names and lists of images), and classes.txt alone, as LabelImg and Label Studio write it.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.formats.folders import by_folder
from pipeline.formats.image_index import (
    IMAGE_FOLDERS,
    IMAGE_SUFFIXES,
    ImageIndex,
    list_files,
    read_head,
    read_image_size,
)
from pipeline.formats.naming import show_value
from pipeline.formats.records import Box, Issue, RawDataset, RawImage, RawObject, RawSplit
from pipeline.formats.shapes import box_around_points
from pipeline.formats.text_files import lines
from pipeline.formats.yolo_manifests import Manifest, darknets, folders, manifest_of, name_lists, resolved, yamls


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    found = yamls(folder, files) or darknets(folder, files)
    if found:
        return found[0].file
    names = name_lists(files)
    stems = {file.stem for file in files if file.suffix.lower() in IMAGE_SUFFIXES} if names else set()
    named = (file for file in files if file.suffix == ".txt" and file.stem in stems)
    return names[0] if any(_shows(folder, file) for file in named) else None


def read(folder: Path) -> RawDataset:
    """Reads the data set of a data.yaml; where there is none, of an obj.data, else of a classes.txt.

    An image without a label file is one without objects, as YOLO trains on it. A label file of a split's folder whose
    image is missing is a fault. A `test` that isn't there is left out, since exports name one all the same.

    Raises:
        PipelineError: there is none of these files, or several of a kind; it names no classes, or a list or folder
            that isn't there.
    """
    files = list_files(folder)
    source = manifest_of(folder, files)
    reader = _Reader(folder, files, source)
    if source.splits:
        places = {name: reader.places(name, entries) for name, entries in source.splits.items()}
        splits = {name: RawSplit(tuple(reader.split(found))) for name, found in places.items() if found}
    else:
        splits = reader.wherever()
    categories = tuple(Category(number, name) for number, name in sorted(source.names.items()))
    return RawDataset(categories, splits, reader.images.count)


@dataclass(frozen=True)
class _Place:
    """An image to read: what it was called, and the file of its labels, where there is one."""

    image: str | Issue
    source: PurePosixPath
    label: PurePosixPath | None


class _Reader:
    def __init__(self, folder: Path, files: list[PurePosixPath], manifest: Manifest) -> None:
        self.images = ImageIndex(files)
        self._folder = folder
        self._files = files
        self._manifest = manifest
        self._folders = folders(files)
        self._places = {*files, *self._folders}
        self._texts = {file for file in files if file.suffix == ".txt"}
        self._by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in sorted(self._texts):  # a set's own order is another in each process
            self._by_name[file.name].append(file)

    def places(self, split: str, entries: list[str]) -> list[_Place]:
        """The images of a split, given as folders, lists or images.

        Raises:
            PipelineError: one of them isn't there.
        """
        found: list[_Place] = []
        for entry in entries:
            place = resolved(entry, self._manifest.file.parent, self._places)
            if place is None and split != "test":
                raise PipelineError(
                    f"{self._manifest.file}: its {split} {show_value(entry)} is not there; mend it or leave it out"
                )
            if place in self._folders:
                found += self._of_folder(place)
            elif place is not None and place.suffix.lower() in IMAGE_SUFFIXES:
                found.append(self._place(place))
            elif place is not None:
                found += self._of_list(place, split)
        return found

    def _of_folder(self, place: PurePosixPath) -> list[_Place]:
        pictures = [
            file for file in self._files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_relative_to(place)
        ]
        found = [self._place(file) for file in pictures]
        used = {one.label for one in found}
        homes = {_among_labels(place), place}
        strays = [
            file
            for file in sorted(self._texts - used)
            if any(file.is_relative_to(home) for home in homes) and _is_label(self._folder, file)
        ]
        return found + [
            _Place(Issue("missing_image", f"its image {show_value(file.stem)} is not there"), file, file)
            for file in strays
        ]

    def _of_list(self, listing: PurePosixPath, split: str) -> list[_Place]:
        return [self._listed(line, listing, split) for line in lines(self._folder, listing)]

    def _listed(self, line: str, listing: PurePosixPath, split: str) -> _Place:
        said = PurePosixPath(
            *(part for part in PurePosixPath(line.replace("\\", "/")).parts if part not in ("/", ".."))
        )
        if not said.name:
            return _Place(Issue("invalid_record", f"its line {show_value(line)} names no image"), listing, None)
        image = self.images.find(str(said), listing.parent, split)
        found = self._place(PurePosixPath(image)) if isinstance(image, str) else _Place(image, listing, None)
        if found.label is not None:
            return found
        label = self._label_of(said)
        return _Place(label, found.source, None) if isinstance(label, Issue) else replace(found, label=label)

    def _place(self, image: PurePosixPath) -> _Place:
        beside = image.with_suffix(".txt")
        label = next((file for file in (_among_labels(beside), beside) if file in self._texts), None)
        return _Place(str(image), image, label)

    def _label_of(self, said: PurePosixPath) -> PurePosixPath | Issue | None:
        """The label file that shares the longest end, a folder at least, with where a list says that it is."""
        beside = said.with_suffix(".txt")
        among = _among_labels(beside)
        shared = {
            file: (max(_end(file, among), _end(file, beside)), _end(file, among))
            for file in self._by_name.get(beside.name, [])
        }
        most = max(shared.values(), default=(0, 0))
        best = [file for file, length in shared.items() if length == most]
        if most[0] < 2:
            return None
        return best[0] if len(best) == 1 else Issue("invalid_record", f"its labels may be {best[0]} or {best[1]}")

    def split(self, places: Iterable[_Place]) -> Iterable[RawImage]:
        for place in places:
            yield self._image(place)

    def wherever(self) -> dict[str, RawSplit]:
        """Without a manifest of splits: each folder of pictures with label files is one."""
        pictures = [self._place(file) for file in self._files if file.suffix.lower() in IMAGE_SUFFIXES]
        labeled = [place for place in pictures if place.label is not None]
        apart = list(self._apart({place.label for place in labeled}))
        homes = {_home(place) for place in labeled + apart}
        names = by_folder(sorted(homes))
        images = {place.image for place in labeled + apart}
        empty = [place for place in pictures if _home(place) in homes and place.image not in images]
        splits: dict[str, list[RawImage]] = {name: [] for name in names.values()}
        for place in labeled + apart + empty:
            splits[names[_home(place)]].append(self._image(place))
        return {name: RawSplit(tuple(found)) for name, found in splits.items()}

    def _apart(self, placed: set[PurePosixPath | None]) -> Iterable[_Place]:
        """Label files that are neither beside their image nor in a folder parallel to its."""
        for file in sorted(self._texts - placed - {self._manifest.file}):
            if _is_label(self._folder, file):
                yield _Place(self.images.find_stem(file.stem, file.parent), file, file)

    def _image(self, place: _Place) -> RawImage:
        source = str(place.label or place.source)
        if isinstance(place.image, Issue):
            return RawImage(source, "", issue=place.image)
        if place.label is None:
            return RawImage(source, place.image)
        pixels = read_image_size(self._folder / place.image)
        if isinstance(pixels, Issue):
            return RawImage(source, "", issue=pixels)
        try:
            rows = lines(self._folder, place.label)
        except PipelineError:
            return RawImage(source, "", issue=Issue("invalid_record", "it is not UTF-8 text"))
        objects = (self._object(f"{source}: object {number}", row, pixels) for number, row in enumerate(rows, 1))
        return RawImage(source, place.image, objects=tuple(objects))

    def _object(self, source: str, row: str, pixels: tuple[int, int]) -> RawObject:
        numbers = _numbers(row)
        box = _box(numbers, self._manifest.keypoints, pixels)
        if isinstance(box, Issue):
            return RawObject(source, "", (0, 0, 0, 0), issue=box)
        name = self._manifest.names.get(int(numbers[0])) if numbers[0].is_integer() else None
        if name is None:
            issue = Issue("unknown_class", f"its class {numbers[0]:g} is not in {self._manifest.file}")
            return RawObject(source, "", box, issue=issue)
        return RawObject(source, name, box)


def _home(place: _Place) -> PurePosixPath:
    return place.source.parent if isinstance(place.image, Issue) else PurePosixPath(place.image).parent


def _among_labels(file: PurePosixPath) -> PurePosixPath:
    """The path with its last folder of pictures called `labels`, as YOLO looks for label files."""
    parts = list(file.parts)
    last = max((place for place, part in enumerate(parts) if part.lower() in IMAGE_FOLDERS), default=None)
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


def _is_label(folder: Path, file: PurePosixPath) -> bool:
    """Whether the first line may be an object's: a class number and four numbers or more."""
    numbers = _first(folder, file)
    return len(numbers) >= 5 and numbers[0].is_integer() and numbers[0] >= 0


def _shows(folder: Path, file: PurePosixPath) -> bool:
    """Whether the first line is an object's, with shares of the image."""
    return _is_label(folder, file) and all(0 <= share <= 1 for share in _first(folder, file)[1:5])


def _first(folder: Path, file: PurePosixPath) -> list[float]:
    return _numbers(read_head(folder / file).decode("utf-8-sig", "replace").lstrip().split("\n")[0])


def _numbers(row: str) -> list[float]:
    """The numbers of a line; empty where one isn't a number."""
    try:
        return [float(column) for column in row.split()]
    except ValueError:
        return []


def _box(numbers: Sequence[float], keypoints: int, pixels: tuple[int, int]) -> Box | Issue:
    """The box of a line, in pixels: center and size, with key points after them or not, or around a polygon."""
    columns = len(numbers)
    width, height = pixels
    if columns in (5, 5 + keypoints):
        _, x, y, w, h = numbers[:5]
        return ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    if columns >= 7 and columns % 2 and not keypoints:
        return box_around_points([(x * width, y * height) for x, y in zip(numbers[1::2], numbers[2::2], strict=True)])
    return Issue("invalid_record", "it is no class number with a box's four numbers or a polygon's points")
