"""Reader of WIDER FACE's text files: the path of an image, the number of its faces, and a line for each face.

Format: readme.txt of http://shuoyang1213.me/WIDERFACE/. The line is left, top, width, height, blur, expression,
illumination, invalid, occlusion, pose; an image without faces has one line of zeros. An invalid face becomes difficult.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.formats.image_index import IMAGE_SUFFIXES
from pipeline.formats.layouts import AnnotationFile, find_text_files, read_split_files
from pipeline.formats.records import RawDataset, RawImage, RawObject, RawSplit, image_record, object_record
from pipeline.formats.text import show_value
from pipeline.formats.values import box_from_size, to_number

CLASS_NAME = "face"
_INVALID = 7  # column


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return find_text_files(folder, files, _is_annotation)


def read(folder: Path) -> RawDataset:
    """Reads all files of faces below `folder`, each as a split.

    Raises:
        PipelineError: There is no such file, or a file isn't text or lacks a number of faces.
    """
    expected = "WIDER FACE annotation: a .txt with an image's path, the number of its faces, and a line for each"
    return read_split_files(folder, find_annotations, _read_split, expected, stem=_stem)


def _is_annotation(lines: list[str]) -> bool:
    if len(lines) < 3 or not _is_image(lines[0]) or not lines[1].isdecimal():
        return False
    columns = lines[2].split()
    return len(columns) >= 4 and all(to_number(column) is not None for column in columns)


def _is_image(line: str) -> bool:
    return PurePosixPath(line).suffix.lower() in IMAGE_SUFFIXES


def _stem(file: PurePosixPath) -> str:
    """`train` of wider_face_train_bbx_gt.txt."""
    return re.sub(r"^wider_face_|_bbx_gt$", "", file.stem)


def _read_split(annotations: AnnotationFile) -> RawSplit:
    return RawSplit(tuple(_images(annotations)))


def _images(annotations: AnnotationFile) -> Iterator[RawImage]:
    lines = annotations.read_lines()
    position = 0
    while position < len(lines):
        number, name = lines[position]
        source = f"{annotations.file}: line {number}"
        count = lines[position + 1][1] if position + 1 < len(lines) else ""
        if not _is_image(name) or not count.isdecimal() or len(count) > 6:
            raise PipelineError(f"{source}: {show_value(name)} is not an image's path followed by a number of faces")
        position += 2
        faces = lines[position : position + int(count)]
        position += int(count)
        if count == "0" and position < len(lines) and not any(map(to_number, lines[position][1].split())):
            position += not _is_image(lines[position][1])  # the line of zeros
        objects = (_object(f"{annotations.file}: line {line}", text.split()) for line, text in faces)
        yield image_record(
            source, annotations.find_image(f"WIDER_{annotations.split}/images/{name}"), objects=tuple(objects)
        )


def _object(source: str, columns: list[str]) -> RawObject:
    is_invalid = len(columns) > _INVALID and columns[_INVALID] == "1"
    return object_record(source, CLASS_NAME, box_from_size(columns[:4]), difficult=int(is_invalid))
