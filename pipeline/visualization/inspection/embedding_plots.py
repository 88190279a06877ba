"""Maps of embeddings: a picture of the objects with their classes and errors, and a page that shows each of them."""

import base64
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import numpy as np
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from pipeline.data.annotations import AnnotationSet, Image
from pipeline.data.detections import Detection
from pipeline.data.images import open_image
from pipeline.evaluation.embedding_files import EmbeddingMap
from pipeline.evaluation.error_kinds import ImageErrors
from pipeline.visualization import pages
from pipeline.visualization.boxes import Color, class_color
from pipeline.visualization.figures import escape_text, save_png

Box = tuple[float, float, float, float]  # x, y, width, height in pixels

# Kinds of points, in the order in which they are drawn: name, marker of matplotlib, size in points².
KINDS = {
    "object": ("object", "o", 18),
    "missed": ("missed object", "o", 34),
    "duplicate": ("duplicate", "+", 46),
    "poor_box": ("poor box", "s", 28),
    "wrong_class": ("wrong class", "^", 40),
    "background": ("on background", "x", 34),
}
_INK = "0.1"
_ROWS = 32  # of a legend
_MAX_NAME = 24  # letters of a class name in the picture
_MAX_NAMED = 20  # classes whose name stands at their points
_NEAREST = 10  # objects around the middle of a group, of which most have the class that names it
_TILE = 64  # pixels, the side of a small picture on the page
_MAX_TILES = 1000  # small pictures on the page, errors first: about a megabyte
_TILES_PER_ROW = 32
_CONTEXT = 1.3  # side of the region around an object on the page, in sides of its box


@dataclass(frozen=True)
class Point:
    """An object or a detection on the map."""

    x: float
    y: float
    label: int  # of its class, 0…K−1; of a detection, the predicted one
    kind: str  # of KINDS
    image: Image
    bbox: Box
    score: float | None  # None for an object


def collect_points(
    embedding_map: EmbeddingMap,
    truth: AnnotationSet,
    detections: Sequence[Detection],
    errors: Mapping[int, ImageErrors],
) -> list[Point]:
    """The points of a map of objects, and of the detections that are errors, in the order in which they are drawn."""
    label_of, images = truth.label_of(), {image.id: image for image in truth.images}
    missed = {item.id for image in errors.values() for item in image.missed}
    kind_of = {verdict.detection: verdict.kind for image in errors.values() for verdict in image.verdicts}
    objects = {item.id: item for item in truth.annotations}
    points = []
    for number, (x, y) in zip(
        embedding_map.annotation_ids.tolist(), embedding_map.annotation_points.tolist(), strict=True
    ):
        item = objects[number]
        kind = "missed" if number in missed else "object"
        points.append(Point(x, y, label_of[item.category_id], kind, images[item.image_id], item.bbox, None))
    for row, (x, y) in zip(embedding_map.detection_rows.tolist(), embedding_map.detection_points.tolist(), strict=True):
        found = detections[row]
        label, image = label_of[found.category_id], images[found.image_id]
        points.append(Point(x, y, label, kind_of[found], image, found.bbox, found.score))
    order = list(KINDS)
    return sorted(points, key=lambda point: order.index(point.kind))


def write_picture(points: Sequence[Point], names: Sequence[str], title: str, path: Path) -> None:
    """Writes the map of objects as a PNG file.

    Args:
        names: of the classes, by label.
        title: the text above the map.
    """
    columns = math.ceil(max(1, len({point.label for point in points})) / _ROWS)
    save_png(partial(_draw, points, names, title), path, size=(8.4 + 2.4 * columns, 8))


def _draw(points: Sequence[Point], names: Sequence[str], title: str, figure: Figure) -> None:
    width = figure.get_figwidth()
    axes = figure.add_axes((0.1 / width, 0.0125, 7.9 / width, 0.91))
    axes.set(xticks=(), yticks=())
    axes.spines[:].set_color("0.85")
    figure.text(0.1 / width, 0.985, escape_text(title), va="top", linespacing=1.4)
    if not points:
        axes.text(0.5, 0.5, "no objects on the map", ha="center", va="center", transform=axes.transAxes)
        return
    for kind in KINDS:
        _scatter(axes, [point for point in points if point.kind == kind], kind)
    _name_groups(axes, points, names)
    _add_legends(figure, points, names, left=8.15 / width)


def _scatter(axes: Axes, points: Sequence[Point], kind: str) -> None:
    if not points:
        return
    _, marker, size = KINDS[kind]
    x, y = np.array([(point.x, point.y) for point in points]).T
    colors = np.array([class_color(point.label) for point in points]) / 255
    if marker in "x+":  # lines: dark ones below, so that pale colors are visible
        axes.scatter(x, y, s=size * 1.2, color=_INK, marker=marker, linewidths=2.6)
        axes.scatter(x, y, s=size, color=colors, marker=marker, linewidths=1.4)
    else:
        plain = kind == "object"
        edges = "0.35" if plain else _INK
        axes.scatter(x, y, s=size, c=colors, marker=marker, edgecolors=edges, linewidths=0.3 if plain else 1.3)


def _name_groups(axes: Axes, points: Sequence[Point], names: Sequence[str]) -> None:
    """Writes the names of classes that form a group at its middle, where there is room."""
    objects = [point for point in points if point.score is None]
    if len({point.label for point in objects}) < 2:
        return
    labels, xy = np.array([point.label for point in objects]), np.array([(point.x, point.y) for point in objects])
    extent = np.ptp(xy, axis=0) + 1e-9
    placed: list[NDArray[np.float64]] = []
    for label, _ in Counter(labels.tolist()).most_common(_MAX_NAMED):
        middle = np.median(xy[labels == label], axis=0)
        nearest = np.argsort(np.hypot(*((xy - middle) / extent).T))[:_NEAREST]
        is_group = (labels[nearest] == label).mean() > 0.5
        if is_group and all((np.abs(middle - other) / extent > (0.12, 0.03)).any() for other in placed):
            placed.append(middle)
            outline = [withStroke(linewidth=3, foreground="white")]
            x, y = middle
            axes.text(x, y, _short(names[label]), ha="center", va="center", size=12, path_effects=outline, zorder=5)


def _add_legends(figure: Figure, points: Sequence[Point], names: Sequence[str], left: float) -> None:
    """Kinds of points at the top right, and the classes on the map below, with their numbers of objects."""
    kinds = Counter(point.kind for point in points)
    kind_handles = [_handle(KINDS[kind][1], "0.75", kind) for kind in KINDS if kinds[kind]]
    kind_names = [f"{KINDS[kind][0]} ({kinds[kind]})" for kind in KINDS if kinds[kind]]
    options: dict[str, Any] = {"frameon": False, "alignment": "left", "borderaxespad": 0}
    figure.legend(kind_handles, kind_names, loc="upper left", bbox_to_anchor=(left, 0.9225), **options)
    counts = Counter(point.label for point in points if point.score is None)
    labels = sorted({point.label for point in points})
    handles = [_handle("o", np.array(class_color(label)) / 255, "object") for label in labels]
    texts = [f"{_short(names[label])} ({counts[label]})" for label in labels]
    figure.legend(
        handles,
        texts,
        loc="upper left",
        bbox_to_anchor=(left, 0.895 - 0.03 * len(kind_names)),
        ncols=math.ceil(len(labels) / _ROWS),
        fontsize="small" if len(labels) > _ROWS / 2 else "medium",
        labelspacing=0.3,
        columnspacing=1,
        **options,
    )


def _handle(marker: str, color: Any, kind: str) -> Line2D:
    line = marker in "x+"
    return Line2D(
        [],
        [],
        linestyle="",
        marker=marker,
        markersize=7,
        color=_INK if line else color,
        markeredgecolor=_INK if line or kind != "object" else "0.35",
        markeredgewidth=0.3 if kind == "object" else 1.5,
    )


def _short(name: str) -> str:
    """The name, shortened to the width of `_MAX_NAME` letters; Chinese, Japanese and Korean ones are twice as wide."""
    ends = list(accumulate(2 if east_asian_width(letter) in "WF" else 1 for letter in name))
    kept = sum(end <= _MAX_NAME for end in ends)
    return escape_text(name if kept == len(name) else name[: kept - 1] + "…")


def write_page(
    points: Sequence[Point],
    embedding_map: EmbeddingMap,
    truth: AnnotationSet,
    errors: Mapping[int, ImageErrors],
    image_folder: Path,
    path: Path,
    title: str,
) -> None:
    """Writes the maps of objects and of images as a self-contained HTML page, with a small picture of each point.

    Raises:
        PipelineError: an image is missing or can't be decoded.
    """
    images = {image.id: image for image in truth.images}
    on_map = [images[number] for number in embedding_map.image_ids.tolist()]
    first = sorted(range(len(points)), key=lambda index: points[index].kind == "object")[:_MAX_TILES]
    object_tiles, image_tiles = _draw_tiles([points[index] for index in first], on_map[:_MAX_TILES], image_folder)
    tile_of = {index: number for number, index in enumerate(first)}
    names = [category.name for category in truth.categories]
    content = {
        "lines": title.splitlines(),
        "method": {"tsne": "t-SNE", "umap": "UMAP", "pca": "PCA"}.get(embedding_map.method, "none"),
        "data": {
            "tile": _TILE,
            "columns": _TILES_PER_ROW,
            "files": [image.file_name for image in on_map],
            "classes": [{"name": name, "color": _css(class_color(label))} for label, name in enumerate(names)],
            "kinds": [name for name, _, _ in KINDS.values()],
            "objects": [_record(point, tile_of.get(index)) for index, point in enumerate(points)],
            "images": [
                [round(x, 3), round(y, 3), errors[image.id].count, number if number < _MAX_TILES else None]
                for number, (image, (x, y)) in enumerate(zip(on_map, embedding_map.image_points.tolist(), strict=True))
            ],
        },
        "object_tiles": object_tiles,
        "image_tiles": image_tiles,
    }
    pages.write(pages.render("inspection/embeddings.html.jinja", content), path)


def _record(point: Point, tile: int | None) -> list[Any]:
    score = None if point.score is None else round(point.score, 3)
    kind = list(KINDS).index(point.kind)
    return [round(point.x, 3), round(point.y, 3), point.label, kind, score, point.image.file_name, tile]


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _draw_tiles(points: Sequence[Point], images: Sequence[Image], folder: Path) -> tuple[str, str]:
    """The small pictures of objects and of images, each kind in one JPEG as a data URI; every image is decoded once."""
    regions: dict[str, list[tuple[int, Box]]] = {image.file_name: [] for image in images}
    for number, point in enumerate(points):
        regions.setdefault(point.image.file_name, []).append((number, point.bbox))
    size_of = {image.file_name: (image.width, image.height) for image in [*images, *(point.image for point in points)]}
    objects: dict[int, PIL.Image.Image] = {}
    whole: dict[str, PIL.Image.Image] = {}
    for name, boxes in regions.items():
        picture = open_image(folder / name, size_of[name])
        for number, bbox in boxes:
            objects[number] = _crop(picture, bbox)
        picture.thumbnail((_TILE, _TILE), reducing_gap=2.0)
        whole[name] = picture
    return (
        _atlas(objects[number] for number in range(len(points))),
        _atlas(whole[image.file_name] for image in images),
    )


def _crop(picture: PIL.Image.Image, bbox: Box) -> PIL.Image.Image:
    """The square around a box, with some context; gray outside the image."""
    x, y, width, height = bbox
    side = max(width, height) * _CONTEXT
    left, top = x + (width - side) / 2, y + (height - side) / 2
    region = (max(left, 0), max(top, 0), min(left + side, picture.width), min(top + side, picture.height))
    scale = _TILE / side
    size = [max(1, round((region[axis + 2] - region[axis]) * scale)) for axis in (0, 1)]
    tile = PIL.Image.new("RGB", (_TILE, _TILE), (128, 128, 128))
    part = picture.resize((size[0], size[1]), PIL.Image.Resampling.BILINEAR, box=region, reducing_gap=2.0)
    tile.paste(part, (round((region[0] - left) * scale), round((region[1] - top) * scale)))
    return tile


def _atlas(tiles: Iterable[PIL.Image.Image]) -> str:
    tiles = list(tiles)
    if not tiles:
        return "data:,"
    rows = math.ceil(len(tiles) / _TILES_PER_ROW)
    atlas = PIL.Image.new("RGB", (_TILES_PER_ROW * _TILE, rows * _TILE), (128, 128, 128))
    for number, tile in enumerate(tiles):
        atlas.paste(tile, (number % _TILES_PER_ROW * _TILE, number // _TILES_PER_ROW * _TILE))
    content = BytesIO()
    atlas.save(content, "JPEG", quality=72)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
