"""Reader of YOLO's text files, one per image: a class number and coordinates relative to the image's size.

Formats: https://docs.ultralytics.com/datasets/detect/ (data.yaml), https://github.com/AlexeyAB/darknet (obj.data,
obj.names and lists of images), a list of class names without further files, as LabelImg, Label Studio and Roboflow
(_darknet.labels) write it, or label files alone. `yolo_lines` describes the lines of label files.
"""

import os.path
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from pipeline.data.annotations import Category
from pipeline.errors import PipelineError
from pipeline.files import to_utf8
from pipeline.formats.classes import join_class_lists
from pipeline.formats.dataset_files import Spellings, list_files, read_head, read_lines, read_numbered_lines
from pipeline.formats.image_index import IMAGE_FOLDERS, IMAGE_SUFFIXES, ImageIndex, count_common_tail, read_image_size
from pipeline.formats.records import (
    Issue,
    RawDataset,
    RawImage,
    RawObject,
    RawSplit,
    image_record,
    invalid_image,
    object_record,
)
from pipeline.formats.split_kinds import split_kind
from pipeline.formats.split_names import name_splits_by_folder
from pipeline.formats.text import fold_name, show_value
from pipeline.formats.yolo_lines import CORNERS, guess_keypoint_values, parse_numbers, read_box
from pipeline.formats.yolo_manifests import (
    Manifest,
    ancestors,
    describe_useless_manifests,
    find_class_lists,
    find_lists,
    find_manifests,
    read_darknet_manifests,
    read_yaml_manifests,
    resolve,
)

_LARGEST_NUMBER = 10**9  # of a class
_OPTIONAL = ("val", "test")  # kinds of splits that exports often name without containing them
_SAMPLED_FILES = 200  # label files that are read to find out what the lines are


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    manifests = read_yaml_manifests(folder, files) or read_darknet_manifests(folder, files)
    if manifests:
        return manifests[0].file
    class_lists = find_class_lists(files)
    label = _find_label_beside_image(folder, files, limit=None if class_lists else _SAMPLED_FILES)
    return class_lists[0] if class_lists and label else label


def is_label(evidence: PurePosixPath) -> bool:
    """Whether the evidence is a label file alone, because no file names the classes."""
    return evidence.suffix == ".txt" and not find_class_lists([evidence])


def _find_label_beside_image(folder: Path, files: list[PurePosixPath], limit: int | None) -> PurePosixPath | None:
    """A label file with relative coordinates that has the name of an image; `limit` files of each folder are tested."""
    stems = {fold_name(file.stem) for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
    tested: Counter[PurePosixPath] = Counter()
    for file in files:
        is_beside = file.suffix.lower() == ".txt" and fold_name(file.stem) in stems
        if is_beside and (limit is None or tested[file.parent] < limit):
            tested[file.parent] += 1
            if _has_relative_box(folder, file):
                return file
    return None


def read(folder: Path) -> RawDataset:
    """Reads the data set of a data.yaml; if there is none, that of an obj.data, else of a list of class names.

    An image without label file has no objects, as in YOLO's training. A label file without image in a split's folder is
    an issue. Folders and lists for validation and test that don't exist are left out, because exports often name them.
    If nothing names the classes, they are called by their numbers.

    Raises:
        PipelineError: There are neither such files nor label files, or several of one kind; it has no classes; or a
            list or folder of train doesn't exist or has no images.
    """
    files = list_files(folder)
    manifests = find_manifests(folder, files)
    if not manifests:
        label = _find_label_beside_image(folder, files, limit=None)
        if label is None:
            raise PipelineError(f"{folder}: no YOLO data set found: neither data.yaml nor label files beside images")
        manifests = [Manifest(label, {}, find_lists(folder, files, PurePosixPath()))]
    sites = [_read_site(folder, files, manifest, is_only=len(manifests) == 1) for manifest in manifests]
    splits = {name: split for site in sites for name, split in site.splits.items()}
    useless = describe_useless_manifests(folder, files)
    remarks = dict.fromkeys([*useless, *(remark for site in sites for remark in site.remarks)])
    lists = {manifest.file: site.categories for manifest, site in zip(manifests, sites, strict=True)}
    categories, issues = join_class_lists(lists)
    named_like_images = sum(file.suffix.lower() in IMAGE_SUFFIXES for file in files)
    count = max(named_like_images, *(site.num_image_files for site in sites))
    return RawDataset(categories, splits, count, tuple(remarks), issues)


def _read_site(folder: Path, files: list[PurePosixPath], manifest: Manifest, *, is_only: bool) -> RawDataset:
    """The data set of one manifest; if there are others, only the files in its folder, unless it names its splits."""
    if not is_only and not manifest.splits:
        files = [file for file in files if file.is_relative_to(manifest.site)]
    reader = _Reader(folder, files, manifest)
    splits = reader.read_manifest_splits() if manifest.splits else reader.read_folder_splits()
    if not is_only:
        splits = {str(manifest.site / name): split for name, split in splits.items()}
    return RawDataset(reader.categories(), splits, reader.images.count, tuple(reader.remarks))


@dataclass(frozen=True)
class _ImageEntry:
    """An image to read, with its label file."""

    image: str | Issue
    source: PurePosixPath  # the file that refers to the image, if there is no label file
    label: PurePosixPath | None
    line: int | None = None  # of a list that refers to the image

    def __str__(self) -> str:
        """The source of the record, for messages."""
        is_listed = isinstance(self.image, Issue) and self.line is not None
        return f"{self.source}: line {self.line}" if is_listed else str(self.label or self.source)


class _Reader:
    def __init__(self, folder: Path, files: list[PurePosixPath], manifest: Manifest) -> None:
        self.images = ImageIndex(files)
        self._folder = folder
        self._files = files
        self._manifest = manifest
        self._keypoint_values = manifest.keypoint_values or 0
        self._used_numbers: set[int] = set()  # classes of a data set that doesn't name them
        self.remarks = list(manifest.remarks)
        self._folders = ancestors(files)
        self._paths = {*files, *self._folders}
        self._texts = {file for file in files if file.suffix.lower() == ".txt"}
        self._text_spellings = Spellings(map(str, self._texts))
        self._texts_by_name: dict[str, list[PurePosixPath]] = defaultdict(list)
        for file in sorted(self._texts):  # the order of a set differs between processes
            self._texts_by_name[fold_name(file.name)].append(file)

    def read_manifest_splits(self) -> dict[str, RawSplit]:
        """The splits that the manifest names, without empty ones."""
        entries = {split: self._entries(split, paths) for split, paths in self._manifest.splits.items()}
        for split, images in entries.items():
            if not images and split_kind(split) not in _OPTIONAL:
                paths = show_value(", ".join(self._manifest.splits[split]))
                raise PipelineError(f"{self._manifest.file}: {split}: no images in {paths}; correct or remove it")
        self._inspect_lines(chain.from_iterable(entries.values()))
        return {split: RawSplit(tuple(map(self._image, images))) for split, images in entries.items() if images}

    def categories(self) -> tuple[Category, ...]:
        """The classes that the manifest names; if there are none, the numbers of the objects' classes."""
        if self._manifest.class_names:
            return tuple(Category(id, name) for id, name in sorted(self._manifest.class_names.items()))
        numbers = sorted(self._used_numbers)
        listed = ", ".join(map(str, numbers[:3])) + (", …" if len(numbers) > 3 else "")
        self.remarks.append(
            f"no file names the classes, so they are called {listed}; add a classes.txt with one name on each line"
        )
        return tuple(Category(number, str(number)) for number in numbers)

    def _inspect_lines(self, entries: Iterable[_ImageEntry]) -> None:
        """Finds out whether lines contain keypoints, unless the manifest states it."""
        labels = {entry.label for entry in islice((entry for entry in entries if entry.label), _SAMPLED_FILES)}
        lines = [numbers for label in sorted(filter(None, labels)) for numbers in _read_numbers(self._folder, label)]
        if self._manifest.keypoint_values is None and (values := guess_keypoint_values(lines)):
            self._keypoint_values = values
            remark = f"each line has a class, a box and {values} numbers of keypoints: the box is used"
            is_yaml = self._manifest.file.suffix.lower() in (".yaml", ".yml")
            file = f"; if the lines are polygons, add kpt_shape: [0, 2] to {self._manifest.file}" if is_yaml else ""
            self.remarks.append(remark + file)
        elif lines and all(len(numbers) == CORNERS for numbers in lines) and not self._keypoint_values:
            self.remarks.append("lines with four corners (oriented boxes) are read as the upright boxes around them")

    def _entries(self, split: str, paths: list[str]) -> list[_ImageEntry]:
        """The images of a split, given as folders, lists or images.

        Raises:
            PipelineError: A path doesn't exist, and the split is not one for validation or test.
        """
        entries: list[_ImageEntry] = []
        for text in paths:
            path = resolve(text, self._manifest.file.parent, self._paths)
            kind = split_kind(split)
            # `../valid/images`, if there is no `valid`, isn't the folder `images` of train.
            if path is None or (
                kind in _OPTIONAL and split_kind(text.replace("\\", "/")) == kind != split_kind(str(path))
            ):
                line, similar = f"{self._manifest.file}: {split}: {show_value(text)} not found", self._similar(split)
                if kind not in _OPTIONAL:
                    raise PipelineError(f"{line}; correct or remove it{similar}")
                self.remarks.append(f"{line}, so it is left out{similar}")
            elif path in self._folders:
                entries += self._entries_of_folder(path)
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                entries.append(self._entry(path))
            else:
                entries += self._listed_entries(path, split)
        return entries

    def _similar(self, split: str) -> str:
        """A line for data.yaml with the folders of images that are called like a split, for a message."""
        parents = dict.fromkeys(file.parent for file in self._image_files())
        base, kind = self._manifest.file.parent, split_kind(split)
        folders = [
            str(PurePosixPath(os.path.relpath(folder, base))) for folder in parents if split_kind(str(folder)) == kind
        ]
        return f"; there are images in {split}: [{', '.join(folders)}]" if kind and folders else ""

    def _entries_of_folder(self, folder: PurePosixPath) -> list[_ImageEntry]:
        """The images of a folder, and the label files there that have no image."""
        images = [file for file in self._image_files() if file.is_relative_to(folder)]
        entries = [self._entry(image) for image in images]
        used = {entry.label for entry in entries}
        label_folders = {_in_labels_folder(folder), folder}
        for file in sorted(self._texts - used):
            if any(file.is_relative_to(labels) for labels in label_folders) and _is_label(self._folder, file):
                issue = Issue("missing_image", f"image {show_value(file.stem)} not found")
                entries.append(_ImageEntry(issue, file, file))
        return entries

    def _image_files(self) -> Iterable[PurePosixPath]:
        return (file for file in self._files if file.suffix.lower() in IMAGE_SUFFIXES)

    def _listed_entries(self, list_file: PurePosixPath, split: str) -> Iterable[_ImageEntry]:
        for number, line in read_numbered_lines(self._folder, list_file):
            yield replace(self._listed_entry(line, list_file, split), line=number)

    def _listed_entry(self, line: str, list_file: PurePosixPath, split: str) -> _ImageEntry:
        parts = PurePosixPath(line.replace("\\", "/")).parts
        listed = PurePosixPath(*(part for part in parts if part not in ("/", "..")))
        if not listed.name:
            return _ImageEntry(Issue("invalid_record", f"{show_value(line)} has no file name"), list_file, None)
        image = self.images.find(str(listed), list_file.parent, split)
        if isinstance(image, Issue):
            return _ImageEntry(image, list_file, None)
        entry = self._entry(PurePosixPath(image))
        label = entry.label or self._find_label(listed)
        if isinstance(label, Issue):
            return _ImageEntry(label, list_file, None)
        return replace(entry, label=label)

    def _entry(self, image: PurePosixPath) -> _ImageEntry:
        beside = image.with_suffix(".txt")
        spellings = (self._text_spellings.find(str(file)) for file in (_in_labels_folder(beside), beside))
        label = next((PurePosixPath(file) for file in spellings if file is not None), None)
        return _ImageEntry(str(image), image, label)

    def _find_label(self, listed: PurePosixPath) -> PurePosixPath | Issue | None:
        """The label file with the most trailing parts, at least two, in common with the path of a listed image."""
        beside = listed.with_suffix(".txt")
        in_labels = _in_labels_folder(beside)
        scores = {
            file: (
                max(count_common_tail(file, in_labels), count_common_tail(file, beside)),
                count_common_tail(file, in_labels),
            )
            for file in self._texts_by_name.get(fold_name(beside.name), [])
        }
        best = max(scores.values(), default=(0, 0))
        if best[0] < 2:
            return None
        files = [file for file, score in scores.items() if score == best]
        if len(files) > 1:
            return Issue("invalid_record", f"the labels may be {files[0]} or {files[1]}")
        return files[0]

    def read_folder_splits(self) -> dict[str, RawSplit]:
        """Splits for a manifest that names none: each folder of images with label files is one."""
        entries = [self._entry(file) for file in self._image_files()]
        labeled = [entry for entry in entries if entry.label is not None]
        labeled += self._separate_entries({entry.label for entry in labeled})
        folders = {_split_folder(entry) for entry in labeled}
        names = name_splits_by_folder(sorted(folders))
        images = {entry.image for entry in labeled}
        unlabeled = [entry for entry in entries if _split_folder(entry) in folders and entry.image not in images]
        splits: dict[str, list[RawImage]] = {name: [] for name in names.values()}
        self._inspect_lines(labeled)
        for entry in labeled + unlabeled:
            splits[names[_split_folder(entry)]].append(self._image(entry))
        return {name: RawSplit(tuple(records)) for name, records in splits.items()}

    def _separate_entries(self, used: set[PurePosixPath | None]) -> list[_ImageEntry]:
        """Entries for label files that are neither beside their image nor in a parallel folder."""
        return [
            _ImageEntry(self.images.find_stem(file.stem, file.parent), file, file)
            for file in sorted(self._texts - used - {self._manifest.file} - set(find_class_lists(self._files)))
            if _is_label(self._folder, file)
        ]

    def _image(self, entry: _ImageEntry) -> RawImage:
        source = str(entry)
        if isinstance(entry.image, Issue) or entry.label is None:
            return image_record(source, entry.image)
        size = read_image_size(self._folder / entry.image)
        if isinstance(size, Issue):
            return image_record(source, size)
        try:
            lines = read_lines(self._folder, entry.label)
        except PipelineError:
            return invalid_image(source, "not UTF-8 text")
        objects = (self._object(f"{source}: object {number}", line, size) for number, line in enumerate(lines, 1))
        return image_record(source, entry.image, objects=tuple(objects))

    def _object(self, source: str, line: str, size: tuple[int, int]) -> RawObject:
        numbers = parse_numbers(line)
        box = read_box(numbers, self._keypoint_values, size)
        return object_record(source, self._class_name(numbers[0]) if numbers else "", box)

    def _class_name(self, number: float) -> str | Issue:
        index = int(number) if number.is_integer() else -1
        if self._manifest.class_names:
            issue = Issue("unknown_class", f"class {number:g} is not in {self._manifest.file}")
            return self._manifest.class_names.get(index, issue)
        if not 0 <= index < _LARGEST_NUMBER:
            return Issue("unknown_class", f"{number:g} is not the number of a class")
        self._used_numbers.add(index)
        return str(index)


def _read_numbers(folder: Path, label: PurePosixPath) -> list[list[float]]:
    """The numbers of each line that consists of numbers; none if the file isn't text."""
    try:
        return [numbers for line in read_lines(folder, label) if (numbers := parse_numbers(line))]
    except PipelineError:
        return []


def _split_folder(entry: _ImageEntry) -> PurePosixPath:
    return entry.source.parent if isinstance(entry.image, Issue) else PurePosixPath(entry.image).parent


def _in_labels_folder(path: PurePosixPath) -> PurePosixPath:
    """The path with its last folder of images replaced by `labels`, where YOLO expects label files."""
    parts = list(path.parts)
    last = max((index for index, part in enumerate(parts) if part.lower() in IMAGE_FOLDERS), default=None)
    if last is not None:
        parts[last] = "labels"
    return PurePosixPath(*parts)


def _is_label(folder: Path, file: PurePosixPath) -> bool:
    """Whether the first line may be an object: a class number and at least four more numbers."""
    numbers = _read_first_line(folder, file)
    return len(numbers) >= 5 and numbers[0].is_integer() and numbers[0] >= 0


def _has_relative_box(folder: Path, file: PurePosixPath) -> bool:
    """Whether the first line is an object with relative coordinates."""
    return _is_label(folder, file) and all(0 <= number <= 1 for number in _read_first_line(folder, file)[1:5])


def _read_first_line(folder: Path, file: PurePosixPath) -> list[float]:
    return parse_numbers(to_utf8(read_head(folder / file)).decode(errors="replace").lstrip().split("\n")[0])
