"""PASCAL Annotation Version 1.00: a text file an image, as the Penn-Fudan pedestrians have it.

Format: readme.txt in https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip. Coordinates are 1-based and
inclusive, as in VOC's XML: pixel columns xmin to xmax, that is, from edge xmin − 1 to edge xmax. The boxes are those
of the masks beside them, which are not needed. Classes keep their names: PASpersonWalking, PASpersonStanding.
"""

import re
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.formats.classes import class_names, number_categories
from pipeline.formats.image_index import ImageIndex, list_files, read_head
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit

_HEAD = "# Compatible with PASCAL Annotation Version 1.00"
_IMAGE = re.compile(r'^Image filename : "(.+)"', re.MULTILINE)
_SIZE = re.compile(r"^Image size \(X x Y x C\) : (\d{1,9}) x (\d{1,9}) x", re.MULTILINE)
_COUNT = re.compile(r"^Objects with ground truth : (\d{1,9})\b", re.MULTILINE)
_BOX = re.compile(r'^Bounding box for object (\d+) "(.*?)"(.*)$', re.MULTILINE)
_CORNERS = re.compile(r" \(Xmin, Ymin\) - \(Xmax, Ymax\) : \((\d+), (\d+)\) - \((\d+), (\d+)\)\s*")


def find_evidence(folder: Path, files: list[PurePosixPath]) -> PurePosixPath | None:
    # The first of each folder: some formats have a text file for each of a hundred thousand images.
    first = {file.parent: file for file in reversed(files) if file.suffix.lower() == ".txt"}
    return next((file for file in sorted(first.values()) if _is_annotation(folder / file)), None)


def read(folder: Path) -> RawDataset:
    """Reads every annotation below `folder`, as one split, `all`.

    Raises:
        PipelineError: there is no annotation.
    """
    files = list_files(folder)
    images = ImageIndex(files)
    texts = [file for file in files if file.suffix.lower() == ".txt" and _is_annotation(folder / file)]
    if not texts:
        raise PipelineError(f"{folder}: no PASCAL annotation found: .txt files that begin with {_HEAD!r}")
    found = tuple(_image(file, (folder / file).read_text(encoding="utf-8", errors="replace"), images) for file in texts)
    return RawDataset(number_categories(sorted(class_names(found))), {"all": RawSplit(found)}, images.count)


def _is_annotation(path: Path) -> bool:
    return read_head(path, 256).lstrip(b"\xef\xbb\xbf \r\n").startswith(_HEAD.encode())


def _image(file: PurePosixPath, text: str, images: ImageIndex) -> RawImage:
    objects = tuple(_object(file, *found.groups()) for found in _BOX.finditer(text))
    size = _SIZE.search(text)
    declared_size = (int(size[1]), int(size[2])) if size else None
    name, count = _IMAGE.search(text), _COUNT.search(text)
    if name is None:
        return RawImage(
            str(file), "", None, declared_size, objects, Issue("invalid_record", "it has no 'Image filename'")
        )
    if count is None or int(count[1]) != len(objects):
        told = f"it says {count[1]} objects" if count else "it doesn't say how many objects"
        return RawImage(
            str(file), "", None, declared_size, (), Issue("invalid_record", f"{told}, and has {len(objects)} boxes")
        )
    path = images.find(name[1], file.parent)
    if isinstance(path, Issue):
        return RawImage(str(file), "", None, declared_size, objects, path)
    return RawImage(str(file), path, None, declared_size, objects)


def _object(file: PurePosixPath, number: str, name: str, rest: str) -> RawObject:
    source = f"{file}: object {number}"
    corners = _CORNERS.fullmatch(rest)
    if corners is None or not name:
        issue = Issue("invalid_record", f"not a box with a class: {name!r}{rest.rstrip()}")
        return RawObject(source, "", (0.0, 0.0, 0.0, 0.0), issue=issue)
    xmin, ymin, xmax, ymax = (float(value) for value in corners.groups())
    return RawObject(source, name, (xmin - 1, ymin - 1, xmax - xmin + 1, ymax - ymin + 1))
