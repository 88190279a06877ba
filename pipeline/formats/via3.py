"""Projects of VGG Image Annotator 3, as entries of a project of version 2.

Format: https://gitlab.com/vgg/via/-/blob/master/via-3.x.y/CodeDoc.md, "Structure of VIA Project JSON File". A view
shows one or more files. A region belongs to a view; its `xy` is the number of its shape, followed by coordinates.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pipeline.formats.text import show_value
from pipeline.formats.values import lookup, to_number

_SHAPES = {
    1: ("point", ("cx", "cy")),
    2: ("rect", ("x", "y", "width", "height")),
    3: ("circle", ("cx", "cy", "r")),
    4: ("ellipse", ("cx", "cy", "rx", "ry")),
    5: ("line", ()),
    6: ("polyline", ()),
    7: ("polygon", ()),
    8: ("polygon", ()),  # four points on the edges of a rectangle
}
_CIRCLE_THROUGH_POINTS = 9  # three
_CHECKBOX, _RADIO, _SELECT = 2, 3, 4  # types of attributes whose values are keys of their options
_IMAGE = 2  # type of a file; others are videos and sounds


def is_project(head: bytes) -> bool:
    """Whether these first bytes are those of a project of version 3."""
    return b'"project"' in head and b'"vid_list"' in head


def entries(content: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """The images of a project, each with the key of its view. Of a view with several files, it is the first one.

    Videos and sounds are left out.
    """
    regions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in _values(lookup(content, "metadata")):
        if lookup(record, "xy"):  # else it describes the whole file
            attributes = _attributes(lookup(record, "av"), lookup(content, "attribute"))
            region = {"shape_attributes": _shape(lookup(record, "xy")), "region_attributes": attributes}
            regions[show_value(lookup(record, "vid"))].append(region)
    views = lookup(content, "view")
    for key, view in views.items() if isinstance(views, dict) else ():
        files = lookup(view, "fid_list")
        file = lookup(content, "file", str(files[0])) if isinstance(files, list) and files else None
        if lookup(file, "type") in (None, _IMAGE):
            yield show_value(key), {"filename": lookup(file, "fname"), "regions": regions[show_value(key)]}


def _values(records: Any) -> list[Any]:
    return list(records.values()) if isinstance(records, dict) else []


def _shape(xy: Any) -> dict[str, Any]:
    """A shape as version 2 has it; one without a known number has no name."""
    number, *coordinates = xy if isinstance(xy, list) else [None]
    if number == _CIRCLE_THROUGH_POINTS:
        return _circle(coordinates)
    name, keys = _SHAPES.get(number, (None, ())) if type(number) is int else (None, ())
    if name == "polygon":
        return {"name": name, "all_points_x": coordinates[::2], "all_points_y": coordinates[1::2]}
    return {"name": name, **dict(zip(keys, coordinates, strict=False))}


def _circle(coordinates: list[Any]) -> dict[str, Any]:
    """The circle through three points; without center and radius if there is none."""
    numbers = [number for value in coordinates if (number := to_number(value)) is not None and abs(number) < 1e9]
    if len(numbers) == len(coordinates) == 6:
        a, b, c = (complex(x, y) for x, y in zip(numbers[::2], numbers[1::2], strict=True))
        # On the scale where a is 0 and b is 1, the center has the real part 1/2, and c the distance of a to it.
        ratio = (c - a) / (b - a) if b != a else 0j
        if ratio.imag:
            center = a + (b - a) * complex(0.5, (abs(ratio) ** 2 - ratio.real) / (2 * ratio.imag))
            return {"name": "circle", "cx": center.real, "cy": center.imag, "r": abs(a - center)}
    return {"name": "circle"}


def _attributes(values: Any, definitions: Any) -> dict[str, Any]:
    """Attributes by name instead of by number, their options by label; several checked ones are a group."""
    named = {}
    for key, value in values.items() if isinstance(values, dict) else ():
        definition = lookup(definitions, key)
        name, options = lookup(definition, "aname") or key, lookup(definition, "options")
        if lookup(definition, "type") in (_CHECKBOX, _RADIO, _SELECT) and isinstance(options, dict):
            checked = str(value).split(",") if lookup(definition, "type") == _CHECKBOX else [value]
            labels = [lookup(options, str(option)) or option for option in checked]
            value = labels[0] if len(labels) == 1 else dict.fromkeys(map(str, labels), True)
        named[str(name)] = value
    return named
