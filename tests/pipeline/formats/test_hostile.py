"""Hostile file contents give a one-line error, or valid records."""

import base64
import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.formats import FORMATS, read, recognize
from pipeline.formats.dataset_files import list_files
from pipeline.formats.records import RawDataset, RawImage, RawObject
from tests.pipeline.formats.test_any_bytes import READERS

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}, {"id": "2", "file_name": "b/c.png"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3.5, 4], "area": 9, "iscrowd": 0, "segmentation": []},
        {"id": 2, "image_id": "2", "category_id": "7", "bbox": [0, 0, 2, 2], "segmentation": {"counts": "a"}},
    ],
    "categories": [{"id": 7, "name": "cat"}],
}
LABELME = '{"shapes": [{"label": "cat", "points": [[1, 2], [4, 5]], "shape_type": "rectangle"}], "imagePath": "a.png"}'
VOC = """<?xml version="1.0" encoding="utf-8"?>
<annotation><filename>a.png</filename><size><width>8</width><height>6</height></size>
<object><name>cat</name><difficult>1</difficult><bndbox><xmin>1</xmin><ymin>1.5</ymin><xmax>8</xmax><ymax>6</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object></annotation>"""
OPEN_IMAGES = """ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsGroupOf
a,x,/m/01,1,"0,25",0.5,0,1,0
a.png,x,/m/02,1,0.25,0.5,0,1,1
"""
_PICTURE = io.BytesIO()
Image.new("1", (3, 2)).save(_PICTURE, "PNG")
BITMAP = base64.b64encode(zlib.compress(_PICTURE.getvalue())).decode()
RECT = {"name": "rect", "x": 1, "y": 1, "width": 3, "height": 4}
VIA = {
    "filename": "a.png",
    "size": 9,
    "regions": [
        {
            "shape_attributes": {"name": "rect", "x": 1, "y": 1, "width": 3, "height": 4},
            "region_attributes": {"a": "cat"},
        }
    ],
    "file_attributes": {},
}
CREATEML = [
    {"image": "a.png", "annotations": [{"label": "cat", "coordinates": {"x": 3, "y": 3, "width": 2, "height": 2}}]}
]
HUGGING_FACE = """{"file_name": "a.png", "objects": {"bbox": [[1, 1, 3, 4]], "categories": [0]}}
{"file_name": "c.png", "objects": [{"bbox": [1, 1, 3, 4], "label": "dog"}]}
"""
BDD100K = [{"name": "a.png", "labels": [{"category": "car", "box2d": {"x1": 1, "y1": 1, "x2": 3, "y2": 4}}]}]
CROWDHUMAN = """{"ID": "a", "gtboxes": [{"tag": "person", "fbox": [1, 1, 3, 4], "extra": {"ignore": 1}}]}
{"ID": "c", "gtboxes": []}
"""
SAGEMAKER = """{"source-ref": "s3://bucket/a.png", "job": {"image_size": [{"width": 8, "height": 6}], "annotations":
 [{"class_id": 0, "left": 1, "top": 1, "width": 3, "height": 4}]}, "job-metadata": {"class-map": {"0": "cat"}}}
""".replace("\n ", " ")
SUPERVISELY = {
    "description": "",
    "tags": [],
    "size": {"width": 8, "height": 6},
    "objects": [
        {"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": [[1, 1], [3, 4]], "interior": []}},
        {"classTitle": "dog", "geometryType": "bitmap", "bitmap": {"data": BITMAP, "origin": [1, 1]}},
    ],
}
LABEL_STUDIO = [
    {
        "data": {"image": "a.png"},
        "annotations": [
            {
                "result": [
                    {
                        "original_width": 8,
                        "original_height": 6,
                        "value": {"x": 1, "y": 1, "width": 50, "height": 50, "rotation": 5, "rectanglelabels": ["cat"]},
                    }
                ]
            }
        ],
    }
]
VOTT_BOX = {"left": 1, "top": 1, "width": 3, "height": 4}
VOTT = {"assets": {"1": {"asset": {"name": "a.png"}, "regions": [{"tags": ["cat"], "boundingBox": VOTT_BOX}]}}}
LABELME_XML = """<annotation><filename>c.png</filename><folder>b</folder><imagesize><nrows>6</nrows><ncols>8</ncols>
</imagesize><object><name>cat</name><deleted>0</deleted><polygon><pt><x>1</x><y>1</y></pt><pt><x>4</x><y>1</y></pt>
<pt><x>3</x><y>5</y></pt></polygon></object></annotation>"""
PENN_FUDAN = """# Compatible with PASCAL Annotation Version 1.00
Image filename : "PennFudanPed/PNGImages/a.png"
Image size (X x Y x C) : 8 x 6 x 3
Objects with ground truth : 1 { "PASpersonWalking" }
Original label for object 1 "PASpersonWalking" : "PennFudanPed"
Bounding box for object 1 "PASpersonWalking" (Xmin, Ymin) - (Xmax, Ymax) : (1, 1) - (4, 5)
"""
# A file of each format, and the others that it needs.
SMALL = {
    "csv": (
        "train.csv",
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.png,8,6,cat,1,1,4,5\nc.png,8,6,,,,,\n",
        {},
    ),
    "via": ("via_train.json", json.dumps({"_via_settings": {}, "_via_img_metadata": {"a.png9": VIA}}), {}),
    "labelstudio": ("train.json", json.dumps(LABEL_STUDIO), {}),
    "createml": ("train.json", json.dumps(CREATEML), {}),
    "huggingface": ("train/metadata.jsonl", HUGGING_FACE, {"README.md": "class_label:\n  names:\n    '0': cat\n"}),
    "bdd100k": ("det_train.json", json.dumps(BDD100K), {}),
    "visdrone": (
        "train/a.txt",
        "1,1,3,4,1,4,0,0\n1,1,2,2,0,0,0,0,\n1,1,3,3,0,11,0,0\n",
        {"val/c.txt": "1,1,3,4,1,4,0,0"},
    ),
    "dota": (
        "train/a.txt",
        "imagesource:x\n1 1 4 1 4 5 1 5 ship 1\n1 1 4 1 4 5 1 5 plane 0\n",
        {"val/c.txt": "1 1 4 1 4 5 1 5 ship 0"},
    ),
    "widerface": ("wider_face_train_bbx_gt.txt", "a.png\n1\n1 1 3 4 0 0 0 1 0 0\nc.png\n0\n0 0 0 0 0 0 0 0 0 0\n", {}),
    "mot": (
        "train/s/gt/gt.txt",
        "1,1,1,1,3,4,1,1,1\n1,2,1,1,3,4,0,8,1\n",
        {"train/s/seqinfo.ini": "[Sequence]\nimDir=x\n"},
    ),
    "crowdhuman": ("annotation_train.odgt", CROWDHUMAN, {}),
    "keras_yolo": ("train.txt", "a.png 1,1,4,5,0 1,1,3,3,1\nb/c.png\n", {"classes.txt": "cat\ndog\n"}),
    "sagemaker": ("train.manifest", SAGEMAKER, {}),
    "supervisely": (
        "train/a.png.json",
        json.dumps(SUPERVISELY),
        {"meta.json": '{"classes": [{"title": "cat"}]}', "val/c.png.json": json.dumps(SUPERVISELY)},
    ),
    "vott": ("train-export.json", json.dumps(VOTT), {}),
    "coco": ("train.json", json.dumps(COCO), {}),
    "voc": ("Annotations/a.xml", VOC, {"ImageSets/Main/train.txt": "a\n"}),
    "retinanet": ("train.csv", "a.png,1,1,4,5,cat\nb/c.png,,,,,\n", {"classes.csv": "cat,0\ndog,1\n"}),
    "labelme_xml": ("Annotations/b/c.xml", LABELME_XML, {}),
    "pennfudan": ("PennFudanPed/Annotation/a.txt", PENN_FUDAN, {"PennFudanPed/readme.txt": "1. Structure:\n"}),
    "openimages": ("train-annotations-bbox.csv", OPEN_IMAGES, {"class-descriptions.csv": "/m/01,Cat\n/m/02,Dog\n"}),
}
# fmt: off
# The images of formats that name their folders.
IMAGES = {
    "mot": "train/s/x/000001.png", "labelme_xml": "Images/b/c.png", "pennfudan": "PennFudanPed/PNGImages/a.png",
}
PIECES = [
    b"", b"\0", b"\\u0000", b"\xff", b'"\\ud800"', b"\\ud800", "é€".encode(), b"NaN", b"-Infinity", b"1e999", b"-1",
    b"9" * 25, b"9" * 5000, b"null", b"true", b"{}", b"[]", b'""', b"../../etc/passwd", b"/", b"C:\\\\x", b".",
    b"[" * 20_000, b'{"a":' * 20_000, b"<a>" * 20_000, b'<!DOCTYPE a [<!ENTITY b "c">]>', b"&b;", b"&#0;", b"<!--",
    b",", b",,,,,", b'"', b"\r\n", b"\n\n", b"\\n", b"\xef\xbb\xbf", b'"' + b"x" * 140_000, "\u2028".encode(), b"1_0",
]
# fmt: on
edit = st.tuples(st.floats(0, 1), st.integers(0, 12), st.one_of(st.sampled_from(PIECES), st.binary(max_size=3)))


def laid_out(folder: Path, name: str, content: bytes) -> None:
    file, _, others = SMALL[name]
    for path, text in {**others, file: ""}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    (folder / file).write_bytes(content)
    (folder / "b").mkdir(exist_ok=True)
    for image in ("a.png", "b/c.png", *([IMAGES[name]] if name in IMAGES else [])):
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / image).exists():
            Image.new("L", (8, 6)).save(folder / image)


def edited(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for share, gone, piece in edits:
        place = int(share * len(content))
        content = content[:place] + piece + content[place + gone :]
    return content


def check_sound(dataset: RawDataset, files: set[str]) -> None:
    names = [category.name for category in dataset.categories]
    assert len(set(names)) == len(names) == len({category.id for category in dataset.categories})
    "".join(names).encode()
    for split in dataset.splits.values():
        for image in split.images:
            check_image(image, files, set(names))
        for orphan in split.orphan_objects:
            assert orphan.issue
            check_object(orphan, set(names))


def check_image(image: RawImage, files: set[str], names: set[str]) -> None:
    assert (image.file in files) != (image.issue is not None)
    assert image.id is None or type(image.id) is int
    assert image.declared_size is None or all(type(side) is int and side > 0 for side in image.declared_size)
    check_line(image.source + (image.issue.message if image.issue else ""))
    for item in image.objects:
        check_object(item, names)


def check_object(item: RawObject, names: set[str]) -> None:
    assert item.issue is not None or item.class_name in names or (item.any_class and item.iscrowd)
    assert len(item.box) == 4
    assert all(isinstance(side, int | float) for side in item.box)
    assert item.area is None or 0 <= item.area < float("inf")
    assert item.iscrowd in (0, 1)
    assert item.difficult in (0, 1)
    check_line(item.source + (item.issue.message if item.issue else ""))


def check_line(text: str) -> None:
    assert text
    assert len(text.encode()) < 1000
    assert len(text.splitlines()) == 1


def check_outcome(act: Callable[[], RawDataset | str], files: set[str]) -> None:
    try:
        outcome = act()
    except PipelineError as error:
        check_line(str(error))
    else:
        if isinstance(outcome, RawDataset):
            check_sound(outcome, files)


def test_each_format_is_damaged() -> None:
    """Here or in test_any_bytes.py."""
    assert SMALL.keys() | READERS.keys() == FORMATS.keys()
    assert not SMALL.keys() & READERS.keys()


@pytest.mark.parametrize("name", SMALL)
def test_small_ones_are_read_whole(tmp_path: Path, name: str) -> None:
    laid_out(tmp_path, name, SMALL[name][1].encode())
    assert recognize(tmp_path) == name
    dataset = read(tmp_path)
    check_sound(dataset, {str(file) for file in list_files(tmp_path)})
    images = [image for split in dataset.splits.values() for image in split.images]
    assert not any(image.issue for image in images)
    assert not any(item.issue for image in images for item in image.objects)
    assert sum(len(image.objects) for image in images) >= 1


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, name: str, encoding: str) -> None:
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    content = SMALL[name][1].replace("\n", "\r\n")
    laid_out(plain, name, SMALL[name][1].encode())
    laid_out(marked, name, content.replace('encoding="utf-8"', f'encoding="{encoding[:6]}"').encode(encoding))
    assert recognize(marked) == name
    assert read(marked) == read(plain)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(edit, min_size=1, max_size=4))
def test_damaged(tmp_path: Path, name: str, edits: list[tuple[float, int, bytes]]) -> None:
    laid_out(tmp_path, name, edited(SMALL[name][1].encode(), edits))
    files = {str(file) for file in list_files(tmp_path)}
    check_outcome(lambda: FORMATS[name].read(tmp_path), files)
    check_outcome(lambda: recognize(tmp_path), files)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("content", PIECES, ids=lambda piece: repr(piece[:12]))
def test_nothing_but(tmp_path: Path, name: str, content: bytes) -> None:
    laid_out(tmp_path, name, content)
    files = {str(file) for file in list_files(tmp_path)}
    check_outcome(lambda: FORMATS[name].read(tmp_path), files)
    check_outcome(lambda: recognize(tmp_path), files)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize(("name", "content"), [("coco", SMALL["coco"][1]), ("labelme", LABELME)])
def test_lists_at_the_end_of_a_large_file(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    """Behind 200 KB of other values, in any encoding; letters of two UTF-16 units may be cut in two."""
    content = content.replace("{", f'{{"info": "{chr(0x1F600) * 50_001}", ', 1)
    laid_out(tmp_path, "coco", (("\ufeff" if encoding == "utf-16-be" else "") + content).encode(encoding))
    assert recognize(tmp_path) == name
    assert sum(len(image.objects) for split in read(tmp_path).splits.values() for image in split.images) >= 1
