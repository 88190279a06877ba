"""What a reader hands over: the records of a data set as its files state them, right or wrong.

A reader judges nothing that one record alone can't tell: sizes, overlaps of splits and classes are the
conversion's business. What it can't read of a record it hands over as a `Fault`, so that one look at a data set can
list everything that is wrong with it.
"""

from dataclasses import dataclass

import msgspec

from pipeline.data.annotations import Category

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Issue:
    """Why a record can't be used."""

    code: str  # a short name to count by: xml, record, missing_image, …
    message: str


class RawObject(msgspec.Struct, frozen=True, gc=False):  # of millions: a third of a dataclass's memory and time
    source: str  # the record, for messages: "Annotations/x.xml: object 3"
    name: str  # of its class; empty where it has a fault
    box: Box  # x, y, width, height in pixel-edge coordinates, 0-based; unchecked
    id: int | None = None  # the data set's own, where it is a whole number
    area: float | None = None
    iscrowd: int = 0
    difficult: int = 0
    issue: Issue | None = None


class RawImage(msgspec.Struct, frozen=True, gc=False):
    source: str  # the record, for messages: "annotations/train.json: image 7"
    file: str  # POSIX path inside the data set's folder; empty where there is a fault
    id: int | None = None  # the data set's own, where it is a whole number
    declared_size: tuple[int, int] | None = None  # width, height as the record has them; None where it is silent
    objects: tuple[RawObject, ...] = ()
    issue: Issue | None = None


@dataclass(frozen=True, slots=True)
class RawSplit:
    images: tuple[RawImage, ...]
    orphan_objects: tuple[RawObject, ...] = ()  # objects of images that the split doesn't have


@dataclass(frozen=True, slots=True)
class RawDataset:
    categories: tuple[Category, ...]  # the data set's own list and order, or what its objects are called
    splits: dict[str, RawSplit]  # by the data set's own names for them
    files: int  # image files in the folder, used or not
