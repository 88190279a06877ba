"""Corrections of a data set, `data/corrections/<dataset>.json`: one record a line, for review as a diff in git.

A record names its image by `file_name`, and an annotated box by its place and class in data/unified before any
correction, so that a changed source is noticed. Boxes are [x, y, width, height] in pixels, to a hundredth.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from pipeline.errors import PipelineError, describe_record_error
from pipeline.files import parse_json, to_utf8, write_text

Action = Literal["exclude", "remove", "relabel", "move", "add"]
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]
Box = tuple[Number, Number, Number, Number]
Name = Annotated[str, Field(min_length=1)]

DECIMALS = 2  # of boxes: a hundredth of a pixel
# The keys of each kind of record besides `file_name` and `action`, and those that it may have.
_KEYS: dict[Action, tuple[str, ...]] = {
    "exclude": (),
    "remove": ("category", "bbox"),
    "relabel": ("category", "bbox", "new_category"),
    "move": ("category", "bbox", "new_bbox"),
    "add": ("category", "bbox"),
}
_OPTIONAL = {"move": ("new_category",)}


@dataclass(frozen=True, slots=True)
class Labelled:
    """A box and its class's name, as a correction states them."""

    category: str
    bbox: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One record: the image is excluded, or one of its boxes removed, relabelled, moved or added.

    `category` and `bbox` are those of the annotation that is corrected, or of the object that is added. A box that is
    moved may get another class as well.
    """

    file_name: Name
    action: Action
    category: Name | None = None
    bbox: Box | None = None
    new_category: Name | None = None
    new_bbox: Box | None = None

    @property
    def before(self) -> Labelled | None:
        """The corrected annotation; None for an image or an added object."""
        return None if self.action == "add" else _labelled(self.category, self.bbox)

    @property
    def after(self) -> Labelled | None:
        """The annotation after the correction; None if there is none."""
        if self.action in ("exclude", "remove"):
            return None
        return _labelled(self.new_category or self.category, self.new_bbox or self.bbox)

    def __str__(self) -> str:
        before, after = self.before, self.after
        match self.action:
            case "remove":
                change = f" {_describe(before)}"
            case "add":
                change = f" {_describe(after)}"
            case "exclude":
                change = ""
            case _:
                new_box = f" {list(self.new_bbox)}" if self.new_bbox else ""
                new_class = f" {self.new_category}" if self.new_category else ""
                change = f" {_describe(before)} →{new_class}{new_box}"
        return f"{self.file_name}: {self.action}{change}"


def _labelled(category: str | None, bbox: tuple[float, float, float, float] | None) -> Labelled | None:
    return Labelled(category, bbox) if category is not None and bbox is not None else None


def _describe(item: Labelled | None) -> str:
    return f"{item.category} {list(item.bbox)}" if item else ""


def rounded(bbox: Iterable[float]) -> tuple[float, float, float, float]:
    """The box as a correction states it."""
    x, y, width, height = (round(value, DECIMALS) + 0.0 for value in bbox)  # + 0.0: no -0.0
    return x, y, width, height


def make(file_name: str, before: Labelled | None, after: Labelled | None) -> Correction | None:
    """The correction that makes one annotation another one; None if they are equal.

    Args:
        before: None: the object is added.
        after: None: the annotation is removed.
    """
    if before == after:
        return None
    if before is None or after is None:
        item = before or after
        assert item is not None  # they differ
        action: Action = "add" if before is None else "remove"
        return Correction(file_name=file_name, action=action, category=item.category, bbox=item.bbox)
    moved, relabelled = before.bbox != after.bbox, before.category != after.category
    return Correction(
        file_name=file_name,
        action="move" if moved else "relabel",
        category=before.category,
        bbox=before.bbox,
        new_category=after.category if relabelled else None,
        new_bbox=after.bbox if moved else None,
    )


_ADAPTER = TypeAdapter(list[Correction])
_NAMES = [field.name for field in fields(Correction)]


def read(path: Path) -> tuple[Correction, ...]:
    """Reads a file of corrections, sorted as `write` writes them; none if there is no such file.

    Raises:
        PipelineError: the file is not valid; the message names the first invalid record, counted from 0.
    """
    try:
        records = _ADAPTER.validate_json(to_utf8(path.read_bytes()), strict=True, extra="forbid")
    except FileNotFoundError:
        return ()
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] == "json_invalid":
            parse_json(path.read_bytes(), path)  # raises an error with the position
        raise PipelineError(f"{path}: {describe_record_error(error, _NAMES)}; see docs/datasets.md") from None
    for problem in _problems(records):
        raise PipelineError(f"{path}: {problem}; see docs/datasets.md")
    return in_order(map(_round, records))


def _round(record: Correction) -> Correction:
    bbox, new_bbox = (box and rounded(box) for box in (record.bbox, record.new_bbox))
    return replace(record, bbox=bbox, new_bbox=new_bbox)


def _problems(records: Iterable[Correction]) -> Iterator[str]:
    for number, record in enumerate(records):
        needed, allowed = _KEYS[record.action], _KEYS[record.action] + _OPTIONAL.get(record.action, ())
        keys = [key for key in ("category", "bbox", "new_category", "new_bbox") if getattr(record, key) is not None]
        location = f"record {number} ({record.action} in {record.file_name})"
        yield from (f"{location}: {key} is missing" for key in needed if key not in keys)
        yield from (f"{location}: {key} has no meaning for {record.action}" for key in keys if key not in allowed)
        for key in ("bbox", "new_bbox"):
            box: tuple[float, ...] | None = getattr(record, key)
            if box and not (box[2] > 0 and box[3] > 0):
                yield f"{location}: {key} {list(box)} has no positive width and height"


def in_order(corrections: Iterable[Correction]) -> tuple[Correction, ...]:
    """The corrections as `write` sorts them."""
    return tuple(sorted(corrections, key=_order))


def _order(record: Correction) -> tuple[object, ...]:
    """By image, then the annotations that the data set has, by place, then the added ones."""
    added = record.action == "add"
    return record.file_name, added, record.bbox or (), record.category or "", record.action, _line(record)


def write(corrections: Iterable[Correction], path: Path) -> None:
    """Writes corrections sorted, one a line; the same corrections always give the same bytes."""
    lines = ",\n".join(f" {_line(record)}" for record in in_order(corrections))
    write_text(path, f"[\n{lines}\n]\n" if lines else "[]\n")


def _line(record: Correction) -> str:
    values = {key: value for key in _NAMES if (value := getattr(record, key)) is not None}
    return json.dumps(values, ensure_ascii=False, allow_nan=False)
