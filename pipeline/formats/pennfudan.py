"""Reader of PASCAL Annotation Version 1.00: one text file per image, as in the Penn-Fudan pedestrian database.

Format: readme.txt in https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip. Coordinates are 1-based and inclusive,
as in VOC's XML: pixel columns xmin to xmax extend from edge xmin − 1 to edge xmax. The mask files, whose bounding boxes
these are, aren't read. Classes keep their names: PASpersonWalking, PASpersonStanding.
"""

import re
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.files import to_utf8
from pipeline.formats.classes import collect_class_names, number_categories
from pipeline.formats.dataset_files import list_files, read_head
from pipeline.formats.image_index import ImageIndex
from pipeline.formats.layouts import find_annotation
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, image_record, invalid_object

_HEADER = "# Compatible with PASCAL Annotation Version 1.00"
_IMAGE = re.compile(r'^Image filename : "(.+)"', re.MULTILINE)
_SIZE = re.compile(r"^Image size \(X x Y x C\) : (\d{1,9}) x (\d{1,9}) x", re.MULTILINE)
_COUNT = re.compile(r"^Objects with ground truth : (\d{1,9})\b", re.MULTILINE)
_BOX = re.compile(r'^Bounding box for object (\d+) "(.*?)"(.*)$', re.MULTILINE)
_CORNERS = re.compile(r" \(Xmin, Ymin\) - \(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)\s*")


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    return find_annotation(files, ".txt", lambda file: _is_annotation(folder / file))


def read(folder: Path) -> RawDataset:
    """Reads all annotations below `folder` as one split, `all`.

    Raises:
        PipelineError: There is no annotation.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    texts = [file for file in files if file.suffix.lower() == ".txt" and _is_annotation(folder / file)]
    if not texts:
        raise PipelineError(f"{folder}: no PASCAL annotation found: .txt files that begin with {_HEADER!r}")
    records = tuple(
        _image(file, to_utf8((folder / file).read_bytes()).decode(errors="replace"), images) for file in texts
    )
    return RawDataset(number_categories(sorted(collect_class_names(records))), {"all": RawSplit(records)}, images.count)


def _is_annotation(path: Path) -> bool:
    return read_head(path, 256).lstrip(b"\xef\xbb\xbf \r\n").startswith(_HEADER.encode())


def _image(file: PurePosixPath, text: str, images: ImageIndex) -> RawImage:
    objects = tuple(_object(file, *match.groups()) for match in _BOX.finditer(text))
    size, name, count = _SIZE.search(text), _IMAGE.search(text), _COUNT.search(text)
    declared_size = (int(size[1]), int(size[2])) if size else None
    if name is None:
        issue = Issue("invalid_record", "has no 'Image filename'")
        return image_record(str(file), issue, None, declared_size, objects)
    if count is None or int(count[1]) != len(objects):
        declared = f"declares {count[1]} objects" if count else "doesn't declare the number of objects"
        issue = Issue("invalid_record", f"{declared} and has {len(objects)} boxes")
        return image_record(str(file), issue, None, declared_size)
    return image_record(str(file), images.find(name[1], file.parent), None, declared_size, objects)


def _object(file: PurePosixPath, number: str, name: str, rest: str) -> RawObject:
    source = f"{file}: object {number}"
    corners = _CORNERS.fullmatch(rest)
    if corners is None or not name:
        return invalid_object(source, Issue("invalid_record", f"not a box with a class: {name!r}{rest.rstrip()}"))
    xmin, ymin, xmax, ymax = (float(value) for value in corners.groups())
    return RawObject(source, name, (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1))
