"""Conversion of small real data sets: what is kept, refused and repaired."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline import params
from pipeline.conversion import convert
from pipeline.data.annotations import Annotation, read
from pipeline.errors import PipelineError
from pipeline.params import ConvertParams
from tests.support.large_images import enlarge_png
from tests.support.projects import PROJECT

Write = Callable[..., Path]


def options(**values: Any) -> ConvertParams:
    """The options of params.yaml with changes."""
    return replace(params.load(PROJECT / "params.yaml").convert, **values)


@pytest.fixture
def raw(tmp_path: Path, voc_xml: Write, picture: Write) -> Path:
    """A valid data set in VOC's layout: three images in train, one in val."""
    folder = tmp_path / "raw"
    objects: dict[str, list[tuple[object, ...]]] = {
        "a": [("dog", 1, 1, 40, 30), ("cat", 5, 6, 10, 12, 1)],
        "b": [],
        "c": [("cat", 3, 3, 9, 9)],
        "d": [("dog", 11, 11, 20, 20)],
    }
    for seed, (stem, items) in enumerate(objects.items()):
        voc_xml(folder / "Annotations" / f"{stem}.xml", items)
        picture(folder / "JPEGImages" / f"{stem}.png", (40, 30), seed)
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("c\na\nb\n")
    (lists / "val.txt").write_text("d\n")
    return folder


def test_valid_data_set(raw: Path, tmp_path: Path) -> None:
    report = convert(raw, tmp_path / "unified", options())
    train, val = (read(tmp_path / "unified" / f"{split}.json") for split in ("train", "val"))
    assert [image.file_name for image in train.images] == [f"JPEGImages/{stem}.png" for stem in "abc"]
    assert [image.id for image in train.images] == [1, 2, 3]
    assert [category.name for category in val.categories] == ["cat", "dog"]  # VOC's order
    assert train.annotations == (
        Annotation(1, 1, 2, (0, 0, 40, 30), 1200, 0, 0),
        Annotation(2, 1, 1, (4, 5, 6, 7), 42, 0, 1),
        Annotation(3, 3, 1, (2, 2, 7, 7), 49, 0, 0),
    )
    assert report == json.loads((tmp_path / "unified" / "report.json").read_text())
    assert report["splits"]["train"] == {
        "source": "train",
        "images": 3,
        "images_without_objects": 1,
        "objects": 3,
        "difficult": 1,
        "crowds": 0,
        "classes": {"cat": 2, "dog": 1},
    }
    assert (report["format"], report["counts"], report["entries"], report["unused_image_files"]) == ("voc", {}, [], 0)


def outputs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_same_input_same_bytes(raw: Path, tmp_path: Path) -> None:
    convert(raw, tmp_path / "one", options(val="train", train="val", issues="repair"))
    copied = shutil.copytree(raw, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    convert(copied, tmp_path / "two", options(val="train", train="val", issues="repair"))
    assert outputs(tmp_path / "one") == outputs(tmp_path / "two")


def box(raw: Path, old: str, new: str, stem: str = "a") -> None:
    path = raw / "Annotations" / f"{stem}.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


Break = Callable[[Path], object]
A, OF_A = "Annotations/a.xml", "Annotations/a.xml: object"
BROKEN: list[tuple[str, Break, str, str, int, int]] = [
    # code, what breaks it, the record, the message, images and objects of train after repair
    ("out_of_bounds_box", lambda raw: box(raw, "<xmax>40<", "<xmax>42<"), f"{OF_A} 1", "2 px beyond", 3, 3),
    ("out_of_bounds_box", lambda raw: box(raw, "<xmin>1<", "<xmin>-1<"), f"{OF_A} 1", "2 px beyond", 3, 3),
    ("tiny_box", lambda raw: box(raw, "<xmax>10<", "<xmax>5<"), f"{OF_A} 2", "at most 1 px", 3, 2),
    ("degenerate_box", lambda raw: box(raw, "<xmax>10<", "<xmax>4<"), f"{OF_A} 2", "zero width", 3, 2),
    ("swapped_corners", lambda raw: box(raw, "<ymax>12<", "<ymax>2<"), f"{OF_A} 2", "swapped", 3, 3),
    ("non_finite_box", lambda raw: box(raw, "<ymax>12<", "<ymax>nan<"), f"{OF_A} 2", "NaN or infinite", 3, 2),
    ("invalid_record", lambda raw: box(raw, "<ymax>12<", "<ymax>?<"), f"{OF_A} 2", "not four numbers", 3, 2),
    ("size_mismatch", lambda raw: box(raw, "<width>40<", "<width>80<"), A, "80×30, but the image is 40×30", 3, 3),
    ("invalid_xml", lambda raw: box(raw, "</bndbox>", "</box>"), A, "not XML: mismatched tag at line", 2, 1),
    ("missing_image", lambda raw: (raw / "JPEGImages/a.png").unlink(), A, "'a.png' not found", 2, 1),
    ("undecodable_image", lambda raw: (raw / "JPEGImages/a.png").write_text("GIF?"), A,
     "a.png can't be decoded: unknown image format", 2, 1),
    ("truncated_image", lambda raw: truncate(raw / "JPEGImages/a.png"), A,
     "a.png is truncated: ", 2, 1),
    ("oversized_image", lambda raw: enlarge_png(raw / "JPEGImages/a.png", 20_000, 10_000), A,
     "a.png: 20,000×10,000 is 200.0 megapixels, more than the limit of 150: cut the image into tiles, or raise the "
     "limit: -S convert.max_megapixels=200", 2, 1),
    ("missing_annotation", lambda raw: (raw / A).unlink(), "/train.txt: a", "annotation not found", 2, 1),
    ("duplicate_record", lambda raw: append(raw / "ImageSets/Main/train.txt", "a\n"), A,
     "JPEGImages/a.png is already in this split", 3, 3),
    ("leak", lambda raw: shutil.copyfile(raw / "JPEGImages/a.png", raw / "JPEGImages/d.png"), A,
     "JPEGImages/a.png is identical to JPEGImages/d.png of val", 2, 1),
]  # fmt: skip


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-900])


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize(("code", "breaks", "where", "message", "images", "objects"), BROKEN)
def test_issue_stops_or_is_repaired_and_listed(
    raw: Path, tmp_path: Path, code: str, breaks: Break, where: str, message: str, images: int, objects: int
) -> None:
    breaks(raw)
    with pytest.raises(PipelineError) as caught:
        convert(raw, tmp_path / "unified", options())
    line = str(caught.value)
    assert "\n" not in line
    assert where in line
    assert message in line
    assert f" with -S convert.checks.{code}=" in line
    assert line.endswith("or for all checks -S convert.issues=repair")
    assert not (tmp_path / "unified").exists()

    report = convert(raw, tmp_path / "unified", options(issues="repair"))
    assert report["counts"] == {code: 1}
    [entry] = report["entries"]
    assert (entry["code"], entry["split"]) == (code, "train")
    assert where in entry["source"]
    assert message in entry["message"]
    train = read(tmp_path / "unified" / "train.json")
    assert (len(train.images), len(train.annotations)) == (images, objects)
    assert str(tmp_path) not in (tmp_path / "unified" / "report.json").read_text()


def test_the_limit_on_pixels_counts_for_declared_sizes_too(raw: Path, tmp_path: Path) -> None:
    """With `trust`, no header is read, but training would decode the image."""
    with pytest.raises(PipelineError, match=r"image 40×30 is 0\.0 megapixels, more than the limit of 0\.001: "):
        convert(raw, tmp_path / "unified", options(image_check="trust", max_megapixels=0.001))
    assert convert(raw, tmp_path / "unified", options(image_check="trust", max_megapixels=0.0012))["counts"] == {}


def test_images_of_more_than_8_bits_are_noted(raw: Path, tmp_path: Path) -> None:
    values = np.linspace(0, 4095, 1200).reshape(30, 40).round().astype(np.uint16)
    Image.fromarray(values).save(raw / "JPEGImages/a.png")
    Image.fromarray(values[::-1].copy()).save(raw / "JPEGImages/c.png")
    report = convert(raw, tmp_path / "unified", options(issues="repair"))
    assert report["notes"] == {"images of more than 8 bits per channel, values 0…4095 as 0…255": 2}


def test_clipped_box_is_the_part_inside(raw: Path, tmp_path: Path) -> None:
    box(raw, "<xmax>40<", "<xmax>45<")
    convert(raw, tmp_path / "unified", options(issues="repair"))
    assert read(tmp_path / "unified" / "train.json").annotations[0].bbox == (0, 0, 40, 30)


def test_one_pixel_outside_is_clipped_and_counted(raw: Path, tmp_path: Path) -> None:
    box(raw, "<xmin>1<", "<xmin>0<")
    report = convert(raw, tmp_path / "unified", options())
    assert report["notes"] == {"boxes up to 1 px outside their image, clipped": 1}
    assert read(tmp_path / "unified" / "train.json").annotations[0].bbox == (0, 0, 40, 30)


def test_exif_rotation_is_ignored_and_counted(raw: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    with Image.open(raw / "JPEGImages/a.png") as image:
        image.save(raw / "JPEGImages/a.jpg", exif=exif)
    (raw / "JPEGImages/a.png").unlink()
    report = convert(raw, tmp_path / "unified", options())
    assert report["counts"] == {"exif_orientation": 1}
    assert report["entries"][0]["action"] == "note"
    image_a = read(tmp_path / "unified" / "train.json").images[0]
    assert (image_a.file_name, image_a.width, image_a.height) == ("JPEGImages/a.jpg", 40, 30)


def test_classes_give_names_and_order(raw: Path, tmp_path: Path) -> None:
    convert(raw, tmp_path / "unified", options(classes=("dog", "cat")))
    categories = read(tmp_path / "unified" / "val.json").categories
    assert [(category.id, category.name) for category in categories] == [(2, "dog"), (1, "cat")]
    with pytest.raises(PipelineError, match=r"object 2: class 'cat' is not in convert\.classes \(dog\);"):
        convert(raw, tmp_path / "unified", options(classes=("dog",)))
    report = convert(raw, tmp_path / "unified", options(classes=("dog",), issues="repair"))
    assert report["counts"] == {"unknown_class": 2}
    assert len(read(tmp_path / "unified" / "train.json").images) == 3
    with pytest.raises(PipelineError, match=r"convert\.classes: the data set has no class 'dgo'; it has cat, dog"):
        convert(raw, tmp_path / "unified", options(classes=("dgo",), issues="repair"))


def test_nothing_to_learn_from(raw: Path, tmp_path: Path) -> None:
    (raw / "ImageSets/Main/train.txt").write_text("b\n")
    with pytest.raises(PipelineError, match="train has 1 image and no objects"):
        convert(raw, tmp_path / "unified", options(issues="repair"))
    (raw / "ImageSets/Main/train.txt").write_text("\n")
    with pytest.raises(PipelineError, match="train has no images"):
        convert(raw, tmp_path / "unified", options(issues="repair"))


@pytest.fixture
def many(tmp_path: Path, voc_xml: Write, picture: Write) -> Path:
    for n in range(60):
        voc_xml(tmp_path / "many" / f"{n:02d}.xml", [("cat", 1, 1, 9, 9)])
        picture(tmp_path / "many" / f"{n:02d}.png", seed=n)
    return tmp_path / "many"


def hold_out(unified: Path) -> set[str]:
    return {image.file_name for image in read(unified / "val.json").images}


def test_hold_out_is_by_content(many: Path, tmp_path: Path, voc_xml: Write, picture: Write) -> None:
    """With the parameters of params.yaml."""
    report = convert(many, tmp_path / "unified", options())
    before = hold_out(tmp_path / "unified")
    assert 4 <= len(before) <= 22  # 12 expected; three standard deviations are 9
    assert report["splits"]["val"]["source"] == "a share of all"
    for n in range(60, 80):
        voc_xml(many / f"{n}.xml", [("cat", 1, 1, 9, 9)])
        picture(many / f"{n}.png", seed=n)
    shutil.copyfile(many / min(before), many / "zz.png")  # a twin of one held out
    voc_xml(many / "zz.xml", [("cat", 1, 1, 9, 9)])
    convert(many, tmp_path / "unified", options())
    after = hold_out(tmp_path / "unified")
    assert before == {name for name in after if name < "60.png"}
    assert "zz.png" in after


def test_hold_out_of_two_leaves_one_each(many: Path, tmp_path: Path) -> None:
    for path in many.iterdir():
        if path.stem not in ("00", "01"):
            path.unlink()
    for fraction in (0.05, 0.95):
        report = convert(many, tmp_path / "unified", options(val_fraction=fraction, split_seed="auto"))
        assert [report["splits"][split]["images"] for split in ("train", "val")] == [1, 1]


def coco_folder(root: Path, picture: Write, **change: Any) -> Path:
    for seed, split in enumerate(("train", "val")):
        picture(root / split / "x.png", seed=seed)
        content = {
            "images": [{"id": 900 + seed, "file_name": "x.png", "width": 40, "height": 30}],
            "annotations": [
                {"id": 71, "image_id": 900 + seed, "category_id": 90, "bbox": [1, 2, 30, 20], "area": 321.5},
                {"id": 55, "image_id": 900 + seed, "category_id": 13, "bbox": [0, 0, 10.5, 20], "iscrowd": 1},
            ],
            "categories": [{"id": 90, "name": "toothbrush"}, {"id": 13, "name": "stop sign"}],
        }
        (root / f"{split}.json").write_text(json.dumps(content | change))
    return root


def test_coco_keeps_its_ids_areas_and_crowds(tmp_path: Path, picture: Write) -> None:
    convert(coco_folder(tmp_path / "raw", picture), tmp_path / "unified", options())
    val = read(tmp_path / "unified" / "val.json")
    assert [(category.id, category.name) for category in val.categories] == [(90, "toothbrush"), (13, "stop sign")]
    assert [(image.id, image.file_name) for image in val.images] == [(901, "val/x.png")]
    assert [(item.id, item.category_id, item.area, item.iscrowd) for item in val.annotations] == [
        (71, 90, 321.5, 0),
        (55, 13, 210.0, 1),
    ]


def test_coco_annotation_zero_is_renumbered(tmp_path: Path, picture: Write) -> None:
    """pycocotools takes a match with annotation 0 for no match."""
    raw = coco_folder(tmp_path / "raw", picture)
    for split in ("train", "val"):
        path = raw / f"{split}.json"
        path.write_text(path.read_text().replace('"id": 55', '"id": 0'))
    convert(raw, tmp_path / "unified", options())
    assert [item.id for item in read(tmp_path / "unified" / "val.json").annotations] == [1, 2]


def test_coco_orphan_object_and_unknown_category(tmp_path: Path, picture: Write) -> None:
    strays = [
        {"id": 1, "image_id": 5, "category_id": 90, "bbox": [1, 2, 3, 4]},
        {"id": 2, "image_id": 900, "category_id": 1, "bbox": [1, 2, 3, 4]},
        {"id": 3, "image_id": 900, "category_id": 90, "bbox": [1, 2, 3, 4]},
        {"id": 4, "image_id": 901, "category_id": 90, "bbox": [1, 2, 3, 4]},
    ]
    raw = coco_folder(tmp_path / "raw", picture, annotations=strays)
    with pytest.raises(PipelineError, match=r"^train\.json: annotation 1: image 5 does not exist"):
        convert(raw, tmp_path / "unified", options())
    report = convert(raw, tmp_path / "unified", options(issues="repair"))
    assert report["counts"] == {"missing_image_id": 2 + 3, "unknown_class": 1, "unused_class": 1}
    assert [item.id for item in read(tmp_path / "unified" / "train.json").annotations] == [3]
