"""The records of a data set as its files state them, valid or not: the output of every reader.

A reader checks a single record at most. Image sizes, duplicates across splits and class lists are checked by the
conversion. A record that can't be read becomes a record with an `Issue`, so that one run can list all issues.
"""

from dataclasses import dataclass

import msgspec

from pipeline.data.annotations import Category

Box = tuple[float, float, float, float]
NO_BOX: Box = (0.0, 0.0, 0.0, 0.0)  # of an object whose box can't be read


@dataclass(frozen=True, slots=True)
class Issue:
    """The reason why a record can't be used as it is."""

    code: str  # a key of pipeline.conversion.checks.CHECKS
    message: str


# msgspec: there are millions of them, and a dataclass takes three times the memory and time.
class RawObject(msgspec.Struct, frozen=True, gc=False):
    """An annotated box. In counts of objects, crowds and regions to ignore are not included."""

    source: str  # the file and the record in it, for messages: "Annotations/x.xml: object 3"
    class_name: str  # empty if there is an issue
    box: Box  # x, y, width, height in pixel-edge coordinates, 0-based; unchecked
    id: int | None = None  # the data set's own, if it is an integer
    area: float | None = None
    iscrowd: int = 0
    difficult: int = 0
    any_class: bool = False  # a region to ignore, which becomes a crowd of every class; `class_name` is empty
    issue: Issue | None = None


class RawImage(msgspec.Struct, frozen=True, gc=False):
    source: str  # the file and the record in it, for messages: "annotations/train.json: image 7"
    file: str  # POSIX path relative to the data set's folder; empty if there is an issue
    id: int | None = None  # the data set's own, if it is an integer
    declared_size: tuple[int, int] | None = None  # width, height; None if the record has none
    objects: tuple[RawObject, ...] = ()
    issue: Issue | None = None


@dataclass(frozen=True, slots=True)
class RawSplit:
    images: tuple[RawImage, ...]
    orphan_objects: tuple[RawObject, ...] = ()  # objects of images that the split doesn't contain


@dataclass(frozen=True, slots=True)
class RawDataset:
    categories: tuple[Category, ...]  # the data set's own list in its order, or the class names of its objects
    splits: dict[str, RawSplit]  # by the data set's own names
    num_image_files: int  # in the folder, used or not
    remarks: tuple[str, ...] = ()  # lines for people on how the files were read, where that is not obvious
    issues: tuple[tuple[str, Issue], ...] = ()  # of no single record, each with its source
    format: str = ""  # a key of pipeline.formats.FORMATS, set by `formats.read`


def image_record(
    source: str,
    file: str | Issue,
    id: int | None = None,
    declared_size: tuple[int, int] | None = None,
    objects: tuple[RawObject, ...] = (),
) -> RawImage:
    """A record of the image `file`, or of the issue that came up when the file was searched."""
    if isinstance(file, Issue):
        return RawImage(source, "", id, declared_size, objects, file)
    return RawImage(source, file, id, declared_size, objects)


def invalid_image(source: str, message: str) -> RawImage:
    return RawImage(source, "", issue=Issue("invalid_record", message))


def ignored_region(source: str, box: Box | Issue) -> RawObject:
    """A region in which objects of any class may be that aren't annotated: a crowd of every class."""
    if isinstance(box, Issue):
        return invalid_object(source, box)
    return RawObject(source, "", box, iscrowd=1, any_class=True)


def invalid_object(source: str, issue: Issue, box: Box = NO_BOX) -> RawObject:
    return RawObject(source, "", box, issue=issue)


def object_record(
    source: str, class_name: str | Issue, box: Box | Issue, *, iscrowd: int = 0, difficult: int = 0
) -> RawObject:
    """A record of an object, or of the issue that came up when its box or class was read."""
    if isinstance(box, Issue):
        return invalid_object(source, box)
    if isinstance(class_name, Issue):
        return invalid_object(source, class_name, box)
    return RawObject(source, class_name, box, iscrowd=iscrowd, difficult=difficult)
