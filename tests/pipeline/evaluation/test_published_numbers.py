"""Both metrics reproduce published results on their data."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as Picture

from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation import coco, inputs, voc
from pipeline.evaluation import ground_truth as truth


def numbers_in(text: str) -> dict[str, float]:
    pairs = (line.split() for line in text.splitlines())
    return {words[0]: float(words[1]) for words in pairs if len(words) > 1 and words[0] in coco.NAMES}


def section(multiformat: Path, number: int) -> str:
    text = (multiformat / "reference_metrics.txt").read_text()
    return text.split(f"# {number}. ")[1].split(f"# {number + 1}. ")[0]


def joined(path: Path, objects: AnnotationSet) -> tuple[Detection, ...]:
    """Detections stored as a COCO data set, matched to the ground truth by file and class name."""
    content = json.loads(path.read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    names = {category["id"]: category["name"] for category in content["categories"]}
    image = {each.file_name: each.id for each in objects.images}
    category = {each.name: each.id for each in objects.categories}
    return tuple(
        Detection(
            image[files[each["image_id"]]], category[names[each["category_id"]]], tuple(each["bbox"]), each["score"]
        )
        for each in content["annotations"]
    )


def with_difficult(objects: AnnotationSet, folder: Path) -> AnnotationSet:
    """Adds the `difficult` flags of the XML files, which the COCO file lacks."""
    image = {each.file_name: each.id for each in objects.images}
    name = {each.id: each.name for each in objects.categories}
    difficult = set()
    for file in folder.glob("*.xml"):
        for item in ET.parse(file).getroot().iter("object"):
            if item.findtext("difficult") == "1":
                x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
                difficult.add((image[f"{file.stem}.jpg"], item.findtext("name"), x1, y1, x2 - x1, y2 - y1))
    marked = tuple(
        replace(each, difficult=int((each.image_id, name[each.category_id], *each.bbox) in difficult))
        for each in objects.annotations
    )
    assert sum(each.difficult for each in marked) == len(difficult) == 38
    return replace(objects, annotations=marked)


def test_coco_fixture(coco_fixture: Path) -> None:
    objects = truth.read(coco_fixture / "gt.json")
    metrics = coco.evaluate(objects, results.read(coco_fixture / "dets.json", objects))
    expected = (coco_fixture / "expected.txt").read_text()
    assert metrics.values == pytest.approx(numbers_in(expected.split("# the same")[0]), abs=5e-7)
    classes = re.findall(r"^ *(\d+) (\S.*?) +(\d\.\d+)$", expected.split("# per-class")[1], re.MULTILINE)
    assert len(classes) == 70
    known = {name: numbers["AP"] for name, numbers in metrics.per_class.items() if numbers["AP"] is not None}
    assert known == pytest.approx({name: float(value) for _, name, value in classes}, abs=5e-7)


def test_coco_sample(multiformat: Path) -> None:
    objects = truth.read(multiformat / "coco_sample" / "gt.json")
    metrics = coco.evaluate(objects, joined(multiformat / "coco_sample" / "dets.json", objects))
    assert metrics.values == pytest.approx(numbers_in(section(multiformat, 2)), abs=1e-6)


@pytest.fixture(scope="module")
def voc2012(multiformat: Path) -> tuple[AnnotationSet, tuple[Detection, ...]]:
    objects = truth.read(multiformat / "gts" / "coco_format_v1" / "instances_default.json")
    return objects, joined(multiformat / "dets" / "coco_format" / "coco_dets.json", objects)


def test_voc2012_by_coco(multiformat: Path, voc2012: tuple[AnnotationSet, tuple[Detection, ...]]) -> None:
    assert coco.evaluate(*voc2012).values == pytest.approx(numbers_in(section(multiformat, 1)), abs=5e-7)


@pytest.mark.parametrize("difficult", ["difficult objects ignored", "difficult counted as ordinary"])
def test_voc2012_by_voc(
    multiformat: Path, voc2012: tuple[AnnotationSet, tuple[Detection, ...]], difficult: str
) -> None:
    objects, detections = voc2012
    if difficult.endswith("ignored"):
        objects = with_difficult(objects, multiformat / "gts" / "pascalvoc_format")
    metrics = voc.evaluate(objects, detections)
    stated = dict(re.findall(rf"{difficult}, (\S+): (\S+)", section(multiformat, 1)))
    assert metrics.mAP50_area == pytest.approx(float(stated["all-point"]), abs=5e-7)
    assert metrics.mAP50_11point == pytest.approx(float(stated["11-point"]), abs=5e-7)
    if difficult.endswith("ignored"):
        classes = re.findall(r"(\w+) (\d\.\d{4})", section(multiformat, 1).split("per class")[1])
        areas = {name: curve.average_precision_area() for name, curve in metrics.per_class.items()}
        assert areas == pytest.approx({name: float(value) for name, value in classes}, abs=5e-5)


def pascal_case(folder: Path) -> tuple[AnnotationSet, list[Detection]]:
    """Boxes as in the published evaluation: inclusive pixels, one pixel wider and higher than in the files."""

    def rows(file: Path) -> list[list[float]]:
        return [[float(word) for word in line.split()[1:]] for line in file.read_text().splitlines() if line.strip()]

    files = sorted((folder / "gts").glob("*.txt"))
    images = tuple(Image(number, file.name, 300, 300) for number, file in enumerate(files))
    boxes = [
        (image.id, (x, y, w + 1, h + 1)) for image in images for x, y, w, h in rows(folder / "gts" / image.file_name)
    ]
    annotations = tuple(Annotation(n, image, 1, box, box[2] * box[3]) for n, (image, box) in enumerate(boxes))
    detections = [
        Detection(image.id, 1, (x, y, w + 1, h + 1), score)
        for image in images
        for score, x, y, w, h in rows(folder / "dets" / image.file_name)
    ]
    return AnnotationSet((Category(1, "object"),), images, annotations), detections  # fmt: skip


@pytest.mark.parametrize(("column", "threshold"), [(0, 0.1), (1, 0.3), (2, 0.5), (3, 0.75)])
def test_pascal_case(multiformat: Path, monkeypatch: pytest.MonkeyPatch, column: int, threshold: float) -> None:
    monkeypatch.setattr(voc, "THRESHOLD", threshold)
    metrics = voc.evaluate(*pascal_case(multiformat / "pascal_case"))
    stated = {words[0]: words[1:] for words in map(str.split, section(multiformat, 3).splitlines()) if words}
    assert metrics.mAP50_11point == pytest.approx(float(stated["11-point"][column]), abs=1e-9)
    assert metrics.mAP50_area == pytest.approx(float(stated["all-point"][column]), abs=1e-9)


@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_toy_example(multiformat: Path, monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    monkeypatch.setattr(voc, "THRESHOLD", threshold)
    objects = truth.read(multiformat / "toyexample" / "gts_coco_format" / "toy_example_coco.JSON")
    metrics = voc.evaluate(objects, joined(multiformat / "toyexample" / "dets_coco_format" / "coco_dets.json", objects))
    stated = re.search(rf"AP@{threshold} +11-point (\S+) % +all-point (\S+) %", section(multiformat, 4))
    assert stated is not None
    assert metrics.mAP50_11point == pytest.approx(float(stated[1]) / 100, abs=5e-5)
    assert metrics.mAP50_area == pytest.approx(float(stated[2]) / 100, abs=5e-5)


@pytest.mark.parametrize("format", ["yolo", "cvat"])
def test_the_same_objects_in_other_formats(multiformat: Path, tmp_path: Path, format: str) -> None:
    """Against YOLO's text files of the same detections, whose numbers have six digits."""
    for image in truth.read(multiformat / "gts/coco_format_v1/instances_default.json").images:
        Picture.new("1", (image.width, image.height)).save(tmp_path / image.file_name, "PNG")
    shutil.copytree(multiformat / "dets/rel_xywh", tmp_path / "dets")
    shutil.copy(multiformat / "toyexample/voc.names", tmp_path / "dets/classes.txt")
    found = inputs.of_files(multiformat / f"gts/{format}_format", tmp_path / "dets", images=tmp_path)
    assert coco.evaluate(found.truth, found.detections).values == pytest.approx(
        numbers_in(section(multiformat, 1)), abs=2e-3
    )
    stated = dict(re.findall(r"difficult counted as ordinary, (\S+): (\S+)", section(multiformat, 1)))
    assert voc.evaluate(found.truth, found.detections).mAP50_area == pytest.approx(float(stated["all-point"]), abs=2e-3)
