"""Reader of MOTChallenge's ground truth: SEQUENCE/gt/gt.txt, one line per object, and SEQUENCE/img1 with the frames.

Format: https://motchallenge.net/instructions/ and https://arxiv.org/abs/1603.00831. A line is frame, id, left, top,
width, height, flag, class, visibility; MOT15 has −1, −1, −1 after the flag. Frames and coordinates are counted from 1.
An object with flag 0 isn't considered in the evaluation: it becomes difficult. Tracks aren't read.
"""

import configparser
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from pipeline.errors import PipelineError
from pipeline.files import to_utf8
from pipeline.formats.dataset_files import list_files, read_head, read_lines, read_numbered_lines
from pipeline.formats.image_index import IMAGE_SUFFIXES, ImageIndex
from pipeline.formats.layouts import build_dataset
from pipeline.formats.records import Issue, RawDataset, RawImage, RawObject, RawSplit, image_record, object_record
from pipeline.formats.text import show_value
from pipeline.formats.values import box_from_size, to_number

CLASS_NAMES = (
    "pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person",
    "distractor", "occluder", "occluder on the ground", "occluder full", "reflection", "crowd",
)  # fmt: skip
_SPLIT = re.compile(r"(train|val|valid|validation|test|trainval)(ing)?", re.IGNORECASE)
_FRAME_NUMBER = re.compile(r"\d{1,9}$", re.ASCII)

Frames = dict[int, PurePosixPath]  # a sequence's image files by frame number


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    return [file for file in files if file.name.lower() == "gt.txt" and _is_annotation(folder / file)]


def read(folder: Path) -> RawDataset:
    """Reads all sequences below `folder`. Those below a folder called train, val or test are that split.

    A frame without objects is an image without objects. The classes are those of gt/labels.txt, which CVAT writes, or
    else MOTChallenge's.

    Raises:
        PipelineError: There is no sequence, or a file isn't text.
    """
    files = list_files(folder)
    annotation_files = find_annotations(folder, files)
    if not annotation_files:
        raise PipelineError(f"{folder}: no MOTChallenge ground truth found: SEQUENCE/gt/gt.txt")
    frames = _find_frames(files)
    splits: dict[str, list[RawImage]] = defaultdict(list)
    class_names: list[str] = []
    for file in annotation_files:
        sequence = file.parent.parent
        names = _read_class_names(folder, file)
        class_names += names
        split = next((part.lower() for part in reversed(sequence.parts) if _SPLIT.fullmatch(part)), "all")
        splits[split] += _read_sequence(folder, file, frames[sequence / _frame_folder(folder / sequence)], names)
    raw_splits = {name: RawSplit(tuple(split)) for name, split in splits.items()}
    return build_dataset(raw_splits, ImageIndex(files), list(dict.fromkeys(class_names)))


def _is_annotation(path: Path) -> bool:
    first_line = to_utf8(read_head(path)).decode(errors="replace").lstrip().split("\n")[0]
    columns = first_line.split(",")
    return 7 <= len(columns) <= 10 and all(to_number(column) is not None for column in columns)


def _find_frames(files: list[PurePosixPath]) -> dict[PurePosixPath, Frames]:
    """The image files of each folder by the number at the end of their names."""
    frames: dict[PurePosixPath, Frames] = defaultdict(dict)
    for file in files:
        number = _FRAME_NUMBER.search(file.stem)
        if number and file.suffix.lower() in IMAGE_SUFFIXES:
            frames[file.parent].setdefault(int(number[0]), file)
    return frames


def _read_class_names(folder: Path, file: PurePosixPath) -> Sequence[str]:
    labels = file.with_name("labels.txt")
    return read_lines(folder, labels) if (folder / labels).is_file() else CLASS_NAMES


def _frame_folder(sequence: Path) -> str:
    """The folder of the frames, which seqinfo.ini may name."""
    info = configparser.ConfigParser(interpolation=None)
    try:
        info.read(sequence / "seqinfo.ini", encoding="utf-8-sig")
        return info.get("Sequence", "imDir", fallback="").strip() or "img1"
    except (configparser.Error, UnicodeDecodeError):
        return "img1"


def _read_sequence(folder: Path, file: PurePosixPath, frames: Frames, class_names: Sequence[str]) -> list[RawImage]:
    """The frames of a sequence, and a record with an issue for each line whose frame isn't a number."""
    objects: dict[int, list[RawObject]] = {number: [] for number in frames}
    sources: dict[int, str] = {}
    records: list[RawImage] = []
    for line, text in read_numbered_lines(folder, file):
        columns = [column.strip() for column in text.split(",")]
        source, number = f"{file}: line {line}", to_number(columns[0])
        if number is None or not (0 <= number < 10**9 and number.is_integer()):
            issue = Issue("invalid_record", f"frame {show_value(columns[0])} is not a number")
            records.append(image_record(source, issue))
        else:
            sources.setdefault(int(number), source)
            objects.setdefault(int(number), []).append(_object(source, columns, class_names))
    for frame, frame_objects in sorted(objects.items()):
        path = frames.get(frame)
        issue = Issue("missing_image", f"the image of frame {frame} is not found")
        records.append(
            image_record(sources.get(frame, str(path)), str(path) if path else issue, objects=tuple(frame_objects))
        )
    return records


def _object(source: str, columns: list[str], class_names: Sequence[str]) -> RawObject:
    box = box_from_size(columns[2:6])
    if not isinstance(box, Issue):
        box = (box[0] - 1, box[1] - 1, box[2], box[3])
    flag = to_number(columns[6]) if len(columns) > 6 else None
    number = columns[7] if 8 <= len(columns) <= 9 else "1"  # MOT15 has pedestrians only
    label: str | Issue = Issue("unknown_class", f"class {show_value(number)} is none of 1 to {len(class_names)}")
    if number.isascii() and number.isdecimal() and 1 <= int(number[:9]) <= len(class_names):
        label = class_names[int(number[:9]) - 1]
    return object_record(source, label, box, difficult=int(flag == 0))
