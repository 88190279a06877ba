"""Detections in any form: COCO results or a COCO data set with scores, `fcos predict`'s, YOLO's and VOC's files."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from pipeline.data import detections as results
from pipeline.data.annotations import Image
from pipeline.data.detections import Detection, read_bytes
from pipeline.errors import PipelineError, count_noun
from pipeline.evaluation.truth_files import Truth
from pipeline.files import parse_json, to_utf8

_YOLO_COLUMNS = 6  # class, center x, center y, width, height, score
_TOLERANCE = 0.01  # of an image's side, by which a box may leave it
_Key = TypeVar("_Key")
_CLASS_LIST = "classes.txt"  # names of YOLO's class numbers, one a line


@dataclass(frozen=True)
class Results:
    """Detections, and the form that they were read in, for people."""

    detections: tuple[Detection, ...]
    format: str


def read(path: Path, truth: Truth) -> Results:
    """Reads the detections in the images of the ground truth.

    Args:
        path: a JSON file: COCO results, a COCO data set whose annotations have scores, or what `fcos predict` writes;
            or a folder of text files: YOLO's, one for each image, or VOC's, one for each class.

    Raises:
        PipelineError: the detections can't be read, or are not of these images and classes.
    """
    if path.is_dir():
        return _read_folder(path, truth)
    content = read_bytes(path)
    try:
        return Results(results.parse(content, path, truth.annotations), "COCO results")
    except PipelineError:
        data = parse_json(content, path)
        if isinstance(data, dict) and {"images", "annotations", "categories"} <= data.keys():
            return _parse(path, truth, _by_names(data), "COCO data set with scores, joined by names")
        if not isinstance(data, list) or not all(isinstance(record, dict) for record in data):
            raise
        if data and all("detections" in record and "file" in record for record in data):
            return _parse(path, truth, _predicted(data), "detections.json of fcos predict, joined by names")
        if not any(isinstance(record.get(key), str) for record in data for key in ("image_id", "category_id")):
            raise
        return _parse(path, truth, data, "COCO results, ids are strings")


def _parse(path: Path, truth: Truth, records: Iterable[dict[str, Any]], format: str) -> Results:
    """COCO results whose images and classes have ids that are strings, or names."""
    image_ids, category_ids, images = _image_ids(truth), _class_names(truth), _Images(truth)
    numbered = []
    for number, record in enumerate(records):
        image, category = str(record.get("image_id")), str(record.get("category_id"))
        named = images.find(PurePosixPath(image)) if image not in image_ids else None
        if image not in image_ids and named is None:
            raise PipelineError(f"{path}: record {number}: image {image!r} is not in the ground truth")
        if category not in category_ids:
            raise PipelineError(f"{path}: record {number}: category {category!r} is not in the ground truth")
        image_id = named.id if named else image_ids[image]
        numbered.append(record | {"image_id": image_id, "category_id": category_ids[category]})
    return Results(results.parse(json.dumps(numbered), path, truth.annotations), format)


def _image_ids(truth: Truth) -> dict[str, int]:
    """Ids of images by the ids in the file, which may be strings."""
    return dict(truth.image_ids) or {str(image.id): image.id for image in truth.annotations.images}


def _class_names(truth: Truth) -> dict[str, int]:
    known = {str(category.id): category.id for category in truth.annotations.categories}
    names = {category.name: category.id for category in truth.annotations.categories}
    return names | (dict(truth.category_ids) or known)


def _by_names(data: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    images = {record.get("id"): record.get("file_name") for record in data["images"]}
    names = {record.get("id"): record.get("name") for record in data["categories"]}
    for record in data["annotations"]:
        image, category = images.get(record.get("image_id")), names.get(record.get("category_id"))
        yield record | {"image_id": image, "category_id": category}


def _predicted(data: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in data:
        for detection in record["detections"]:
            yield detection | {"image_id": record["file"], "category_id": detection.get("category")}


class _Images:
    """The images of the ground truth, by the ends of their paths."""

    def __init__(self, truth: Truth) -> None:
        self.by_tail: dict[str, Image | None] = {}  # None: ambiguous
        for image in truth.annotations.images:
            parts = PurePosixPath(image.file_name).parts
            for start in range(len(parts)):
                tail = PurePosixPath(*parts[start:])
                for name in {str(tail), str(tail.with_suffix(""))}:
                    self.by_tail[name] = None if name in self.by_tail else image
        self.by_tail |= {image.file_name: image for image in truth.annotations.images}

    def find(self, name: PurePosixPath) -> Image | None:
        """The image whose path ends like a name with or without suffix; None if there is none or several."""
        tails = (PurePosixPath(*name.parts[start:]) for start in range(len(name.parts)))
        names = (spelled for tail in tails for spelled in (str(tail), str(tail.with_suffix(""))))
        return next((image for spelled in names if (image := self.by_tail.get(spelled))), None)


def _read_folder(folder: Path, truth: Truth) -> Results:
    files = [file for file in sorted(folder.rglob("*.txt")) if file.name != _CLASS_LIST]
    if not files:
        raise PipelineError(f"{folder}: no .txt file with detections in this folder")
    images = _Images(truth)
    by_image = {file: image for file in files if (image := images.find(_without_suffix(file, folder)))}
    by_class = {file: name for file in files if (name := _class_of(file, truth))}
    if len(by_class) > len(by_image):
        detections = tuple(_read_lines(by_class, files, "class", _VocFiles(truth, images)))
        return Results(detections, f"VOC results, {count_noun(len(files), 'file')}")
    is_score_last = _is_score_last(by_image)
    detections = tuple(
        _read_lines(by_image, files, "image", _YoloFiles(truth, is_score_last, _read_class_list(folder)))
    )
    order = "class, box, score" if is_score_last else "class, score, box"
    return Results(detections, f"YOLO results ({order}), {count_noun(len(files), 'file')}")


def _read_class_list(folder: Path) -> list[str] | None:
    file = folder / _CLASS_LIST
    return [" ".join(columns) for _, columns in _lines(file)] if file.is_file() else None


def _without_suffix(file: Path, folder: Path) -> PurePosixPath:
    return PurePosixPath(file.relative_to(folder).with_suffix("").as_posix())


def _class_of(file: Path, truth: Truth) -> str | None:
    """The class of VOC's file `comp4_det_test_car.txt`, or `car.txt`; the longest name that fits."""
    names = (category.name for category in truth.annotations.categories)
    return max((name for name in names if f"_{file.stem}".endswith(f"_{name}")), key=len, default=None)


def _read_lines(
    known: Mapping[Path, _Key], files: Iterable[Path], kind: str, parse: Callable[[_Key, list[str]], Detection]
) -> Iterator[Detection]:
    for file in files:
        if file not in known:
            raise PipelineError(f"{file}: no {kind} of the ground truth, or several, have this name")
        for number, columns in _lines(file):
            try:
                yield parse(known[file], columns)
            except ValueError as error:
                raise PipelineError(f"{file}: line {number}: {error}") from None


def _lines(file: Path) -> Iterator[tuple[int, list[str]]]:
    """The columns of each line that isn't empty, with its number from 1."""
    try:
        text = to_utf8(file.read_bytes()).decode()
    except UnicodeDecodeError:
        raise PipelineError(f"{file}: not UTF-8 text") from None
    return ((number, columns) for number, line in enumerate(text.splitlines(), 1) if (columns := line.split()))


def _numbers(columns: Iterable[str]) -> list[float]:
    numbers = [float(column) for column in columns]
    if not all(map(math.isfinite, numbers)):
        raise ValueError("a number isn't finite")
    return numbers


def _is_score_last(files: Iterable[Path]) -> bool:
    """Whether lines are `class x y width height score`, as YOLO writes them, not `class score x y width height`.

    The first order is excluded if a box would leave its image, provided that no box does in the other order.
    """
    leaves: dict[bool, bool] = defaultdict(bool)
    for file in files:
        for _, columns in _lines(file):
            try:
                numbers = _numbers(columns[1:])
            except ValueError:
                return True  # the error is reported when the line is read
            for is_last, box in ((True, numbers[:4]), (False, numbers[1:5])):
                leaves[is_last] |= len(numbers) != _YOLO_COLUMNS - 1 or not _is_inside(box)
    return leaves[False] or not leaves[True]


def _is_inside(box: list[float]) -> bool:
    x, y, width, height = box
    limit = 0.5 + _TOLERANCE
    return min(width, height) >= 0 and abs(x - 0.5) + width / 2 <= limit and abs(y - 0.5) + height / 2 <= limit


@dataclass(frozen=True)
class _YoloFiles:
    """Parses lines of YOLO's files."""

    truth: Truth
    is_score_last: bool
    class_list: list[str] | None

    def __call__(self, image: Image, columns: list[str]) -> Detection:
        if len(columns) != _YOLO_COLUMNS:
            raise ValueError(f"{count_noun(len(columns), 'column')} instead of class, x, y, width, height, score")
        if not (image.width and image.height):
            raise ValueError(f"the ground truth doesn't state the size of {image.file_name}")
        first, *rest = _numbers(columns[1:])
        score, box = (rest[-1], [first, *rest[:-1]]) if self.is_score_last else (first, rest)
        x, y, width, height = box
        if max(box) > 2:
            raise ValueError("coordinates must be fractions of the image's sides")
        left, top = (x - width / 2) * image.width, (y - height / 2) * image.height
        return _detection(
            image, self.category(columns[0]), (left, top, width * image.width, height * image.height), score
        )

    def category(self, text: str) -> int:
        """The id of a class: by its name, or by its number in the list of classes or that of the ground truth."""
        by_name = {category.name: category.id for category in self.truth.annotations.categories}
        names = list(by_name) if self.class_list is None else self.class_list
        if text not in by_name and (not text.isdecimal() or int(text) >= len(names)):
            raise ValueError(f"class {text} is not one of {len(names)}, counted from 0")
        name = text if text in by_name else names[int(text)]
        if name not in by_name:
            raise ValueError(f"class {name} is not in the ground truth")
        return by_name[name]


@dataclass(frozen=True)
class _VocFiles:
    """Parses lines of VOC's files: image, score and corners, whose pixels are counted from 1 and belong to the box."""

    truth: Truth
    images: _Images

    def __call__(self, class_name: str, columns: list[str]) -> Detection:
        if len(columns) != 6:
            raise ValueError(f"{count_noun(len(columns), 'column')} instead of image, score, x1, y1, x2, y2")
        image = self.images.find(PurePosixPath(columns[0]))
        if image is None:
            raise ValueError(f"image {columns[0]} is not in the ground truth")
        score, x1, y1, x2, y2 = _numbers(columns[1:])
        category = next(item.id for item in self.truth.annotations.categories if item.name == class_name)
        return _detection(image, category, (x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1), score)


def _detection(image: Image, category: int, bbox: tuple[float, float, float, float], score: float) -> Detection:
    if min(bbox[2:]) < 0:
        raise ValueError("the box has a negative width or height")
    return Detection(image.id, category, bbox, score)
