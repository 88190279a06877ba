"""The two layouts that most formats have: a file for each split, or a folder of files, one for each image."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import parse_json, to_utf8
from pipeline.formats.classes import collect_class_names, number_categories
from pipeline.formats.dataset_files import list_files, read_head, read_numbered_lines, refuse_empty_splits
from pipeline.formats.image_index import IMAGE_SUFFIXES, ImageIndex
from pipeline.formats.records import (
    Issue,
    RawDataset,
    RawImage,
    RawObject,
    RawSplit,
    image_record,
    invalid_image,
    invalid_object,
)
from pipeline.formats.split_names import name_splits_by_file, name_splits_by_folder
from pipeline.formats.text import show_value

_SNIFFED_BYTES = 1 << 16
_LEADING = b"\xef\xbb\xbf \t\r\n"  # a byte order mark and white space
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
        """The file's content, without a byte order mark.

        Raises:
            PipelineError: The file can't be read.
        """
        try:
            return to_utf8((self.folder / self.file).read_bytes())
        except OSError as error:
            raise PipelineError(f"{self.file}: can't be read: {error.strerror}") from None

    def read_json(self) -> Any:
        """The file's content as JSON.

        Raises:
            PipelineError: The file can't be read or isn't JSON; the message has the line.
        """
        return parse_json(self.read_bytes(), self.file)

    def try_read_json(self) -> Any:
        """The file's content as JSON, or the `Issue` if it can't be read: for a file that describes one image."""
        try:
            return self.read_json()
        except PipelineError as error:
            return Issue("invalid_record", str(error).removeprefix(f"{self.file}: "))

    def read_json_lines(self) -> Iterator[tuple[str, Any]]:
        """Yields the source and the value of each line with JSON; the value is an `Issue` if it isn't JSON.

        Raises:
            PipelineError: The file can't be read.
        """
        for number, line in enumerate(self.read_bytes().splitlines(), 1):
            source = f"{self.file}: line {number}"
            if line.strip():
                try:
                    yield source, parse_json(line, PurePosixPath(source))
                except PipelineError as error:
                    yield source, Issue("invalid_record", str(error).removeprefix(f"{source}: "))

    def read_lines(self) -> list[tuple[int, str]]:
        """The lines of a text file that aren't empty, stripped, with their numbers.

        Raises:
            PipelineError: The file can't be read, or isn't UTF-8 text.
        """
        return read_numbered_lines(self.folder, self.file)

    def try_read_lines(self) -> list[tuple[int, str]] | Issue:
        """Like `read_lines`, or the `Issue` if the file can't be read: for a file that describes one image."""
        try:
            return self.read_lines()
        except PipelineError as error:
            return Issue("invalid_record", str(error).removeprefix(f"{self.file}: "))


def read_split_files(
    folder: Path,
    find: Callable[[Path, list[PurePosixPath]], Collection[PurePosixPath]],
    read_split: Callable[[AnnotationFile], RawSplit],
    expected: str,
    *,
    stem: Callable[[PurePosixPath], str] = lambda file: file.stem,
    class_names: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> RawDataset:
    """Reads a data set whose annotation files describe many images each: every file is a split.

    Args:
        find: The annotation files among all files of the data set.
        expected: What was searched, for the error.
        stem: The part of a file's name that may name the split.
        class_names: The format's own classes, in this order; other classes follow, sorted by name.
        remarks: Lines for people on how the files are read.

    Raises:
        PipelineError: There is no annotation file, or `read_split` raises it.
    """
    files = list_files(folder)
    annotation_files = find(folder, files)
    if not annotation_files:
        raise PipelineError(f"{folder}: no {expected} found")
    for suffix in sorted({file.suffix.lower() for file in annotation_files}):
        refuse_empty_splits(folder, files, suffix)
    images = ImageIndex(files)
    names = name_splits_by_file({file: stem(file) for file in annotation_files})
    splits = {name: read_split(AnnotationFile(folder, file, name, images)) for file, name in names.items()}
    return build_dataset(splits, images, class_names, remarks)


def read_image_files(
    folder: Path,
    find: Callable[[Path, list[PurePosixPath]], Collection[PurePosixPath]],
    read_image: Callable[[AnnotationFile], RawImage | None],
    expected: str,
    *,
    class_names: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> RawDataset:
    """Reads a data set that has an annotation file for each image: every folder of them is a split.

    The arguments and errors are those of `read_split_files`; `read_image` returns None for a file of another tool.
    """
    files = list_files(folder)
    annotation_files = find(folder, files)
    if not annotation_files:
        raise PipelineError(f"{folder}: no {expected} found")
    images = ImageIndex(files)
    names = name_splits_by_folder(sorted({file.parent for file in annotation_files}))
    splits: dict[str, list[RawImage]] = defaultdict(list)
    for file in annotation_files:
        name = names[file.parent]
        record = read_image(AnnotationFile(folder, file, name, images))
        splits[name] += [record] if record else []
    return build_dataset({name: RawSplit(tuple(split)) for name, split in splits.items()}, images, class_names, remarks)


def build_dataset(
    splits: dict[str, RawSplit], images: ImageIndex, class_names: Sequence[str] = (), remarks: Sequence[str] = ()
) -> RawDataset:
    """A data set whose classes are those of its objects: first those in `class_names`, in that order."""
    used_names = collect_class_names(image for split in splits.values() for image in split.images)
    ordered = [name for name in class_names if name in used_names]
    return RawDataset(
        number_categories(ordered + sorted(used_names - set(ordered))), splits, images.count, tuple(remarks)
    )


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


def find_json_files(
    folder: Path, files: Iterable[PurePosixPath], is_annotation: Callable[[bytes], bool], *, whole_folders: bool = False
) -> list[PurePosixPath]:
    """The .json files whose first bytes are those of a format; a sample decides whether a folder has any.

    Args:
        whole_folders: All .json files of such a folder, so that a damaged one is reported: for files of single images.
    """

    def matches(file: PurePosixPath) -> bool:
        return is_annotation(read_head(folder / file, _SNIFFED_BYTES).lstrip(_LEADING))

    groups = find_annotation_folders(files, ".json", matches)
    return [file for group in groups.values() for file in group if whole_folders or matches(file)]


def find_text_files(
    folder: Path,
    files: Iterable[PurePosixPath],
    is_annotation: Callable[[list[str]], bool],
    *,
    whole_folders: bool = False,
) -> list[PurePosixPath]:
    """Like `find_json_files` for .txt files; `is_annotation` gets the first lines that aren't empty, stripped."""

    def matches(file: PurePosixPath) -> bool:
        lines = to_utf8(read_head(folder / file)).decode(errors="replace").splitlines()
        return is_annotation([stripped for line in lines if (stripped := line.strip())])

    groups = find_annotation_folders(files, ".txt", matches)
    return [file for group in groups.values() for file in group if whole_folders or matches(file)]


def text_image(annotations: AnnotationFile, read_object: Callable[[str, str], RawObject | None]) -> RawImage:
    """A record of the image that has the name of a text file, whose lines are objects.

    Args:
        read_object: Reads a line, given its source; None for a line that isn't an object.
    """
    path, lines = annotations.find_image(annotations.file.stem), annotations.try_read_lines()
    source = str(annotations.file)
    if isinstance(lines, Issue):
        return image_record(source, lines)
    read = (read_object(f"{source}: line {number}", line) for number, line in lines)
    return image_record(source, path, objects=tuple(item for item in read if item is not None))


def json_image(
    annotations: AnnotationFile,
    source: str,
    name: Any,
    objects: Any,
    read_object: Callable[[str, Any], RawObject | None],
    size: tuple[int, int] | None = None,
) -> RawImage:
    """A record of an image, from values of any type in a JSON file.

    Args:
        objects: a list, or the `Issue` if it can't be read.
        read_object: Reads one of `objects`, given its source; None for something that isn't an object.
    """
    if isinstance(objects, Issue):
        return image_record(source, objects)
    if not isinstance(name, str) or not name:
        return invalid_image(source, f"needs the name of an image, has {show_value(name)}")
    if not isinstance(objects, list):
        return invalid_image(source, f"needs a list of objects, has {show_value(objects)}")
    read = (read_object(f"{source}: object {number}", item) for number, item in enumerate(objects, 1))
    return image_record(
        source, annotations.find_image(name), None, size, tuple(item for item in read if item is not None)
    )


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
