"""Fixtures: ground truth and detections with published results, and small scenes made by hand."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from tests.support.paths import SHARED

COCO_METRICS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
_DATA = SHARED / "data"
Box = tuple[float, float, float, float]


def _unpack(fixture: str, folder: Path) -> Path:
    archive = _DATA / f"{fixture}.zip"
    if not archive.is_file():
        pytest.skip(f"../shared/data/{archive.name} does not exist")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder, [name for name in packed.namelist() if not name.lower().endswith((".jpg", ".png"))])
    return folder / fixture


@pytest.fixture(scope="session")
def coco_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 images of COCO: gt.json, dets.json, and expected.txt with the output of pycocotools."""
    return _unpack("coco-eval-fixture", tmp_path_factory.mktemp("coco"))


@pytest.fixture(scope="session")
def multiformat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four evaluations with published results in reference_metrics.txt."""
    return _unpack("multiformat-voc2012-100", tmp_path_factory.mktemp("multiformat"))


@pytest.fixture
def cats() -> Callable[..., AnnotationSet]:
    """Returns a function that makes an image with boxes of one class; `difficult` and `crowds` are indices of boxes."""

    def make(*boxes: Box, difficult: tuple[int, ...] = (), crowds: tuple[int, ...] = ()) -> AnnotationSet:
        annotations = tuple(
            Annotation(index + 1, 1, 7, box, box[2] * box[3], int(index in crowds), int(index in difficult))
            for index, box in enumerate(boxes)
        )
        return AnnotationSet((Category(7, "cat"),), (Image(1, "a.jpg", 400, 400),), annotations)

    return make


@pytest.fixture
def found() -> Callable[..., tuple[Detection, ...]]:
    """Returns a function that makes detections of the image and class of `cats` from pairs of a box and a score."""

    def make(*pairs: tuple[Box, float]) -> tuple[Detection, ...]:
        return tuple(Detection(1, 7, box, score) for box, score in pairs)

    return make


@pytest.fixture
def perfect() -> Callable[[AnnotationSet], tuple[Detection, ...]]:
    """Returns a function that converts ground truth to detections."""
    return lambda truth: tuple(Detection(item.image_id, item.category_id, item.bbox, 1.0) for item in truth.annotations)
