"""Reader of VGG Image Annotator's JSON and CSV: projects, or annotations alone; of version 3, projects only.

Format: https://www.robots.ox.ac.uk/~vgg/software/via/docs/face_track_annotation.html and the export of
https://www.robots.ox.ac.uk/~vgg/software/via/via.html. Coordinates are pixels of the canvas, 0-based edges. A region's
class is one of its attributes, whose name the annotator chose.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import parse_json
from pipeline.formats import via3
from pipeline.formats.csv_files import read_first_row, read_rows
from pipeline.formats.layouts import AnnotationFile, find_json_files, json_image, read_split_files
from pipeline.formats.records import Box, Issue, RawDataset, RawObject, RawSplit, object_record
from pipeline.formats.shapes import box_around_ellipse, box_around_points
from pipeline.formats.text import show_value
from pipeline.formats.values import box_from_size, lookup, to_label, to_number

_COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}  # of a CSV file
# Names of the attribute that is the class, if regions have several.
_CLASS_ATTRIBUTES = ("class", "label", "category", "name", "type", "object", "species")
_UNNAMED_CLASS = "object"  # of regions without any attribute, as in data sets of one class


def find_annotations(folder: Path, files: list[PurePosixPath]) -> list[PurePosixPath]:
    tables = [file for file in files if file.suffix.lower() == ".csv"]
    tables = [file for file in tables if set(_names(read_first_row(folder, file))) >= _COLUMNS]
    return find_json_files(folder, files, _is_annotation) + tables


def read(folder: Path) -> RawDataset:
    """Reads all VIA files below `folder`, each as a split.

    The class is the attribute that the regions have; of several, the one called class, label, category, …, or else the
    most common one. Without attributes, all regions are of one class, `object`.

    Raises:
        PipelineError: There is no such file, or a file isn't JSON or CSV.
    """
    expected = "VIA annotation: a .json or .csv file whose regions have shape_attributes"
    remarks: list[str] = []
    return read_split_files(
        folder, find_annotations, lambda file: _read_split(file, remarks), expected, stem=_stem, remarks=remarks
    )


def _stem(file: PurePosixPath) -> str:
    return file.stem.removeprefix("via_")


def _is_annotation(head: bytes) -> bool:
    if not head.startswith(b"{"):
        return False
    is_entry = b'"filename"' in head and b'"regions"' in head
    attributes = b'"file_attributes"' in head or b'"shape_attributes"' in head
    return b'"_via_img_metadata"' in head or (is_entry and attributes) or via3.is_project(head)


def _names(header: list[str]) -> list[str]:
    return [name.lstrip("#") for name in header]  # version 1 begins its header with #


def _read_split(annotations: AnnotationFile, remarks: list[str]) -> RawSplit:
    is_table = annotations.file.suffix.lower() == ".csv"
    entries = list(_read_table(annotations) if is_table else _read_project(annotations))
    counts = _count_attributes(entries)
    attribute = _class_attribute(counts)
    if len(counts) != 1:
        found = f"attributes {', '.join(map(show_value, sorted(counts)))}" if counts else "no attribute"
        remarks.append(f"{annotations.file}: regions have {found}; the class is {attribute or repr(_UNNAMED_CLASS)}")

    def read_object(source: str, region: Any) -> RawObject:
        label = to_label(_value(lookup(region, "region_attributes", attribute))) if attribute else _UNNAMED_CLASS
        return object_record(source, label, _box(lookup(region, "shape_attributes")))

    records = (
        json_image(annotations, source, lookup(entry, "filename"), _regions(entry), read_object)
        for source, entry in entries
    )
    return RawSplit(tuple(records))


def _read_project(annotations: AnnotationFile) -> Iterator[tuple[str, Any]]:
    content = annotations.read_json()
    if lookup(content, "project", "vid_list") is not None:
        yield from ((f"{annotations.file}: view {key}", entry) for key, entry in via3.entries(content))
        return
    entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise PipelineError(f"{annotations.file}: not a VIA project: no images by key")
    yield from ((f"{annotations.file}: image {show_value(key)}", entry) for key, entry in entries.items())


def _read_table(annotations: AnnotationFile) -> Iterator[tuple[str, Any]]:
    """The rows of a CSV file as entries of a project: a row is a region, or an image without regions."""
    rows = read_rows(annotations.folder, annotations.file)
    header = _names(next(rows)[1])
    entries: dict[str, tuple[str, dict[str, Any]]] = {}
    for line, row in rows:
        fields = dict(zip(header, row, strict=False))
        name, source = fields.get("filename", ""), f"{annotations.file}: line {line}"
        _, entry = entries.setdefault(name, (source, {"filename": name, "regions": []}))
        region = {key: _parse(source, fields.get(f"region_{key}", "")) for key in ("shape_attributes", "attributes")}
        if region["shape_attributes"]:
            shape, attributes = region.values()
            entry["regions"].append({"shape_attributes": shape, "region_attributes": attributes})
    yield from entries.values()


def _parse(source: str, text: str) -> Any:
    return parse_json(text.encode("utf-8", "surrogatepass"), PurePosixPath(source)) if text else {}


def _regions(entry: Any) -> Any:
    """The list of regions; version 1 has them by number."""
    regions = lookup(entry, "regions")
    return list(regions.values()) if isinstance(regions, dict) else regions


def _count_attributes(entries: list[tuple[str, Any]]) -> Counter[str]:
    """The number of regions that have each attribute."""
    counts: Counter[str] = Counter()
    for _, entry in entries:
        regions = _regions(entry)
        for region in regions if isinstance(regions, list) else ():
            attributes = lookup(region, "region_attributes")
            counts.update(list(attributes) if isinstance(attributes, dict) else ())
    return counts


def _class_attribute(counts: Counter[str]) -> str | None:
    by_name = {name.lower(): name for name in sorted(counts, reverse=True)}
    preferred = next((by_name[name] for name in _CLASS_ATTRIBUTES if name in by_name), None)
    return preferred or max(sorted(counts), key=lambda name: counts[name], default=None)


def _value(value: Any) -> Any:
    """An attribute's value; of a group of check boxes, the only one that is checked."""
    checked = [name for name, state in value.items() if state] if isinstance(value, dict) else [value]
    return checked[0] if len(checked) == 1 else value


def _box(shape: Any) -> Box | Issue:
    kind = lookup(shape, "name")
    if kind == "rect":
        names = ("x", "y", "width", "height")
        return box_from_size([lookup(shape, name) for name in names], names)
    if kind in ("circle", "ellipse"):
        names = ("cx", "cy", "r", "r") if kind == "circle" else ("cx", "cy", "rx", "ry")
        numbers = box_from_size([lookup(shape, name) for name in names], names)
        if isinstance(numbers, Issue):
            return numbers
        theta = to_number(lookup(shape, "theta")) or 0.0
        return box_around_ellipse(numbers[:2], numbers[2:], math.degrees(theta) if math.isfinite(theta) else 0.0)
    if kind == "polygon":
        xs, ys = (lookup(shape, f"all_points_{axis}") for axis in "xy")
        points = list(zip(map(to_number, xs), map(to_number, ys), strict=False)) if _are_lists(xs, ys) else []
        corners = [(x, y) for x, y in points if x is not None and y is not None]
        if len(corners) == len(points) >= 3:
            return box_around_points(corners)
        return Issue("invalid_record", "a polygon needs three or more points in all_points_x and all_points_y")
    return Issue("invalid_record", f"shape {show_value(kind)} has no area; supported: rect, circle, ellipse, polygon")


def _are_lists(xs: Any, ys: Any) -> bool:
    return isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys)
