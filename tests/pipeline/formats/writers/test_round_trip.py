"""Exported data sets are read back by the project's readers, to the precision of each format."""

import math
import tempfile
from collections.abc import Iterable
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from ruamel.yaml import YAML

from pipeline import params
from pipeline.conversion import survey_original_splits
from pipeline.conversion.export import IMAGE_MODES, WRITERS
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.formats import FORMATS
from pipeline.formats.writers.image_files import SourceImages
from tests.support.projects import PROJECT

Splits = dict[str, AnnotationSet]
OPTIONS = params.load(PROJECT / "params.yaml").convert

# Whatever may be read: names that collide when folders or suffixes go, or on a file system that ignores case.
PARTS = st.sampled_from(
    ["a", "A", "b", "a_b", "images", "JPEGImages", "x y", " x", "é", "1", "-1", "a-2", "a\nb", "a.v1"]
)
FILES = st.builds(
    lambda folders, stem, suffix: "/".join([*folders, stem + suffix]),
    st.lists(PARTS, max_size=2), PARTS, st.sampled_from([".png", ".bmp", ".PNG"]),
)  # fmt: skip
SPLITS = st.sampled_from(["train", "val", "VOC2007/val", "trainval", "default", "instances_a", "images", "names", "1"])
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cn")), min_size=1, max_size=6)
# What YAML 1.1 or 1.2, XML or Python might take for something else.
TRAPS = [
    "no",
    "~",
    "1",
    "1e5",
    "0o7",
    "a: b",
    "#c",
    "- d",
    "'",
    '"',
    "<&>",
    "]]>",
    "a\nb",
    "a\rb",
    "x\u2028x",
    "{e}",
    "\\n",
]
CLASSES = (WORDS | st.sampled_from(TRAPS)).filter(lambda name: name.strip() == name)


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> tuple[float, float, float, float]:
    """A box inside the image, larger than one pixel, sometimes with integer coordinates."""
    sides = []
    for length in (width, height):
        number = draw(st.sampled_from([lambda low, high: st.integers(low, high).map(float), st.floats]))
        start = draw(number(0, length - 2))
        sides.append((start, draw(number(2, length - math.ceil(start)))))
    return (sides[0][0], sides[1][0], sides[0][1], sides[1][1])


@st.composite
def data_sets(draw: st.DrawFn) -> Splits:
    """Up to three splits that may share images, with equal or different annotations."""
    names = draw(st.lists(CLASSES, min_size=1, max_size=3, unique=True))
    ids = draw(st.lists(st.integers(0, 99), min_size=len(names), max_size=len(names), unique=True))
    categories = tuple(Category(number, name) for number, name in zip(ids, names, strict=True))
    files = draw(st.lists(FILES, min_size=1, max_size=5, unique=True))
    sizes = {file: (draw(st.integers(4, 40)), draw(st.integers(4, 40))) for file in files}
    first = _split(draw, categories, sizes, least=1)
    splits = {name: _split(draw, categories, sizes) for name in draw(st.lists(SPLITS, max_size=2, unique=True))}
    return {**splits, "all": first, **({"both": first} if draw(st.booleans()) else {})}


def _split(
    draw: st.DrawFn, categories: tuple[Category, ...], sizes: dict[str, tuple[int, int]], least: int = 0
) -> AnnotationSet:
    files = sorted(draw(st.sets(st.sampled_from(sorted(sizes)), min_size=least)))
    numbers = draw(st.lists(st.integers(0, 2**40), min_size=len(files), max_size=len(files), unique=True))
    images = tuple(Image(number, file, *sizes[file]) for number, file in zip(numbers, files, strict=True))
    flag = st.integers(0, 1)
    objects = [
        Annotation(
            0, image.id, draw(st.sampled_from(categories)).id, draw(boxes(image.width, image.height)),
            draw(st.floats(0, 1e6)), draw(flag), draw(flag),
        )
        for image in images
        for _ in range(draw(st.integers(0, 3)))
    ]  # fmt: skip
    ids = draw(st.lists(st.integers(1, 2**40), min_size=len(objects), max_size=len(objects), unique=True))
    return AnnotationSet(
        categories, images, tuple(replace(item, id=number) for item, number in zip(objects, ids, strict=True))
    )


def draw_images(splits: Splits, folder: Path) -> None:
    """Image files with distinct contents, which identify them after renaming."""
    images = {image.file_name: image for split in splits.values() for image in split.images}
    for number, image in enumerate(images.values()):
        path = folder / image.file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.new("RGB", (image.width, image.height), (number, 7, 9)).save(path)


def exported(splits: Splits, to: str, home: Path) -> Path:
    draw_images(splits, home / "raw")
    (home / "out").mkdir()
    WRITERS[to](splits, home / "out", SourceImages(home / "raw", IMAGE_MODES["copy"]))
    return home / "out"


def read_back(folder: Path, format: str) -> Splits:
    return survey_original_splits(folder, OPTIONS, format).splits


def known(splits: Splits, folder: Path) -> list[dict[bytes, list[tuple[Any, ...]]]]:
    """Class, box, crowd and difficult flag of the objects, by image content."""
    return [
        {
            (folder / image.file_name).read_bytes(): [
                (name_of(split, item), item.bbox, item.iscrowd, item.difficult) for item in split.by_image()[image.id]
            ]
            for image in split.images
        }
        for split in splits.values()
    ]


def name_of(split: AnnotationSet, item: Annotation) -> str:
    return next(category.name for category in split.categories if category.id == item.category_id)


def ordered(found: Iterable[dict[bytes, Any]]) -> list[list[tuple[bytes, Any]]]:
    """The splits in an order that doesn't depend on their names."""
    return sorted(sorted(split.items()) for split in found)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data_sets())
def test_coco_is_exact(splits: Splits) -> None:
    """Ids, areas and flags are kept; only file names change."""
    with tempfile.TemporaryDirectory() as home:
        out = exported(splits, "coco", Path(home))
        back = read_back(out, "coco")
        assert all(split.categories == splits["all"].categories for split in back.values())
        assert whole(back, out) == whole(splits, Path(home) / "raw")


def whole(splits: Splits, folder: Path) -> list[Any]:
    """Everything in the unified format except file and split names, sorted."""
    images = [
        [(i.id, i.width, i.height, (folder / i.file_name).read_bytes()) for i in s.images] for s in splits.values()
    ]
    objects = [[astuple(item) for item in split.annotations] for split in splits.values()]
    return sorted((sorted(one), sorted(other)) for one, other in zip(images, objects, strict=True))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data_sets())
def test_voc_keeps_objects(splits: Splits) -> None:
    """Crowds become difficult; coordinates are exact up to the rounding of adding 1."""
    with tempfile.TemporaryDirectory() as home:
        out = exported(splits, "voc", Path(home))
        back = ordered(known(read_back(out, "voc"), out))
        wanted = ordered(known(splits, Path(home) / "raw"))
        for split, other in zip(wanted, back, strict=True):
            for (image, objects), (same, found) in zip(split, other, strict=True):
                assert image == same
                assert [(o[0], 0, int(o[2] or o[3])) for o in objects] == [(o[0], *o[2:]) for o in found]
                for (_, box, *_), (_, again, *_) in zip(objects, found, strict=True):
                    assert again == pytest.approx(box, abs=1e-25, rel=0)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(data_sets())
def test_yolo_keeps_boxes(splits: Splits) -> None:
    """All objects except crowds, boxes to 1e-9, classes in order; empty splits are left out."""
    splits = {name: split for name, split in splits.items() if split.images}
    with tempfile.TemporaryDirectory() as home:
        out = exported({**splits, "none": AnnotationSet(splits["all"].categories, (), ())}, "yolo", Path(home))
        names, found = yolo(out)
        assert names == [category.name for category in splits["all"].categories]
        check_yolo(splits, Path(home) / "raw", found)
        if "yolo" in FORMATS:
            back = known(read_back(out, "yolo"), out)
            check_yolo(splits, Path(home) / "raw", [{k: [o[:2] for o in v] for k, v in one.items()} for one in back])


def check_yolo(splits: Splits, raw: Path, found: list[dict[bytes, list[tuple[Any, ...]]]]) -> None:
    wanted = [{k: [o[:2] for o in v if not o[2]] for k, v in one.items()} for one in known(splits, raw)]
    for split, other in zip(ordered(wanted), ordered(found), strict=True):
        for (image, objects), (same, seen) in zip(split, other, strict=True):
            assert (image, [name for name, _ in objects]) == (same, [name for name, _ in seen])
            for (_, box), (_, again) in zip(objects, seen, strict=True):
                assert again == pytest.approx(box, abs=1e-9, rel=1e-9)


def yolo(folder: Path) -> tuple[list[str], list[dict[bytes, list[tuple[Any, ...]]]]]:
    """The classes, and the class and box of objects by image content, as Ultralytics reads them."""
    text = (folder / "data.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert content == YAML(typ="safe").load(text)  # YAML 1.1 and 1.2
    names = content.pop("names")
    assert list(names) == list(range(content.pop("nc")))
    return list(names.values()), [_yolo_split(folder / place, list(names.values())) for place in content.values()]


def _yolo_split(folder: Path, names: list[str]) -> dict[bytes, list[tuple[Any, ...]]]:
    found: dict[bytes, list[tuple[Any, ...]]] = {}
    for image in folder.iterdir():
        with Picture.open(image) as picture:
            width, height = picture.size
        labels = Path("/labels/".join(str(image).rsplit("/images/", 1)).rsplit(".", 1)[0] + ".txt")
        rows = [[float(number) for number in row.split()] for row in labels.read_text().splitlines()]
        assert all(0 <= share <= 1 for row in rows for share in row[1:])
        found[image.read_bytes()] = [
            (names[int(label)], ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height))
            for label, x, y, w, h in rows
        ]
    return found
