"""The two layouts that most formats have: a file for each split, or a folder of files, one for each image."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import parse_json
from pipeline.formats.classes import collect_class_names, number_categories
from pipeline.formats.dataset_files import list_files, refuse_empty_splits
from pipeline.formats.image_index import IMAGE_SUFFIXES, ImageIndex
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, image_record, invalid_object
from pipeline.formats.split_names import name_splits_by_file, name_splits_by_folder

SAMPLE = 20  # files of a folder that are tested for a format: the first ones may be empty


@dataclass(frozen=True)
class AnnotationFile:
    """A file of annotations, with what is needed to find the images of its records."""

    folder: Path  # of the data set
    file: PurePosixPath  # relative to `folder`
    split: str
    images: ImageIndex

    def find_image(self, name: str) -> str | Issue:
        """The file of an image, given by a path, perhaps of another machine, or by a name without suffix."""
        path = PurePosixPath(name.replace("\\", "/"))
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            by_stem = self.images.find_stem(path.name, self.file.parent, self.split)
            if isinstance(by_stem, str):
                return by_stem
        return self.images.find(name, self.file.parent, self.split)

    def read_bytes(self) -> bytes:
        """The file's content.

        Raises:
            PipelineError: The file can't be read.
        """
        try:
            return (self.folder / self.file).read_bytes()
        except OSError as error:
            raise PipelineError(f"{self.file}: can't be read: {error.strerror}") from None

    def read_json(self) -> Any:
        """The file's content as JSON.

        Raises:
            PipelineError: The file can't be read or isn't JSON; the message has the line.
        """
        return parse_json(self.read_bytes(), self.file)


def read_split_files(
    folder: Path,
    find: Callable[[Path, list[PurePosixPath]], Collection[PurePosixPath]],
    read_split: Callable[[AnnotationFile], RawSplit],
    expected: str,
    *,
    stem: Callable[[PurePosixPath], str] = lambda file: file.stem,
    class_names: Sequence[str] = (),
) -> RawDataset:
    """Reads a data set whose annotation files describe many images each: every file is a split.

    Args:
        find: The annotation files among all files of the data set.
        expected: What was searched, for the error.
        stem: The part of a file's name that may name the split.
        class_names: The format's own classes in their order, which precede all others, sorted by name.

    Raises:
        PipelineError: There is no annotation file, or `read_split` raises it.
    """
    files = list_files(folder)
    found = find(folder, files)
    if not found:
        raise PipelineError(f"{folder}: no {expected} found")
    for suffix in {file.suffix.lower() for file in found}:
        refuse_empty_splits(folder, files, suffix)
    images = ImageIndex(files)
    names = name_splits_by_file({file: stem(file) for file in found})
    splits = {name: read_split(AnnotationFile(folder, file, name, images)) for file, name in names.items()}
    return build_dataset(splits, images, class_names)


def read_image_files(
    folder: Path,
    find: Callable[[Path, list[PurePosixPath]], Collection[PurePosixPath]],
    read_image: Callable[[AnnotationFile], RawImage],
    expected: str,
    *,
    class_names: Sequence[str] = (),
) -> RawDataset:
    """Reads a data set that has an annotation file for each image: every folder of them is a split.

    The arguments and errors are those of `read_split_files`.
    """
    files = list_files(folder)
    found = find(folder, files)
    if not found:
        raise PipelineError(f"{folder}: no {expected} found")
    images = ImageIndex(files)
    names = name_splits_by_folder(sorted({file.parent for file in found}))
    splits: dict[str, list[RawImage]] = defaultdict(list)
    for file in found:
        name = names[file.parent]
        splits[name].append(read_image(AnnotationFile(folder, file, name, images)))
    return build_dataset({name: RawSplit(tuple(split)) for name, split in splits.items()}, images, class_names)


def build_dataset(splits: dict[str, RawSplit], images: ImageIndex, class_names: Sequence[str] = ()) -> RawDataset:
    """A data set whose classes are those of its objects: first those in `class_names`, in that order."""
    found = collect_class_names(image for split in splits.values() for image in split.images)
    ordered = [name for name in class_names if name in found]
    return RawDataset(number_categories(ordered + sorted(found - set(ordered))), splits, images.count)


def find_annotation(
    files: Iterable[PurePosixPath], suffix: str, is_annotation: Callable[[PurePosixPath], bool]
) -> PurePosixPath | None:
    """An annotation among the first SAMPLE files with `suffix` of any folder."""
    samples = (group[:SAMPLE] for group in _group_by_folder(files, suffix).values())
    return next((file for sample in samples for file in sample if is_annotation(file)), None)


def find_annotation_folders(
    files: Iterable[PurePosixPath], suffix: str, is_annotation: Callable[[PurePosixPath], bool]
) -> dict[PurePosixPath, list[PurePosixPath]]:
    """The files with `suffix` of each folder in which one of the first SAMPLE is an annotation.

    All of them are listed, so that a damaged one is reported.
    """
    groups = _group_by_folder(files, suffix)
    return {folder: group for folder, group in groups.items() if any(map(is_annotation, group[:SAMPLE]))}


def _group_by_folder(files: Iterable[PurePosixPath], suffix: str) -> dict[PurePosixPath, list[PurePosixPath]]:
    by_folder: dict[PurePosixPath, list[PurePosixPath]] = defaultdict(list)
    for file in files:
        if file.suffix.lower() == suffix:
            by_folder[file.parent].append(file)
    return by_folder


@dataclass(frozen=True)
class Row:
    """A row of a table: an object, or an image without objects."""

    source: str
    image: str  # the image's name
    object: RawObject | None
    size: tuple[int, int] | None = None  # the declared size of the image


def group_rows(annotations: AnnotationFile, rows: Iterable[Row]) -> RawSplit:
    """The images of a table with a row for each object. The rows of an image need not be adjacent."""
    first_rows: dict[str, Row] = {}
    objects: dict[str, list[RawObject]] = defaultdict(list)
    orphans: list[RawObject] = []
    for row in rows:
        if row.image:
            first_rows.setdefault(row.image, row)
            objects[row.image].extend([row.object] if row.object else ())
        else:
            orphans.append(invalid_object(row.source, Issue("invalid_record", "has no image name")))
    images = (
        image_record(row.source, annotations.find_image(name), None, row.size, tuple(objects[name]))
        for name, row in first_rows.items()
    )
    return RawSplit(tuple(images), tuple(orphans))
