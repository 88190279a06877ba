"""A fixture: a project with five small images and detections that have one error of each kind."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation.embedding_files import Embeddings
from pipeline.files import digest, write_json
from tests.support.paths import PROJECT

CAT, DOG = 3, 7  # category ids that differ from indices

SCENE = AnnotationSet(
    categories=(Category(CAT, "cat"), Category(DOG, "dog")),
    images=tuple(Image(number, f"pictures/{number}.png", 200, 100) for number in (11, 12, 13, 14, 15)),
    annotations=(
        Annotation(1, 11, CAT, (10, 10, 40, 40), 1600),
        Annotation(2, 12, CAT, (20, 20, 60, 60), 3600),
        Annotation(3, 13, DOG, (0, 0, 50, 50), 2500),
        Annotation(4, 13, CAT, (100, 0, 50, 50), 2500),
        Annotation(5, 15, DOG, (10, 10, 30, 30), 900, difficult=1),
        Annotation(6, 15, CAT, (100, 10, 80, 80), 6400, iscrowd=1),
    ),
)
DETECTIONS = (
    Detection(11, CAT, (10, 10, 40, 40), 0.9),  # correct
    Detection(11, CAT, (12, 10, 40, 40), 0.8),  # duplicate
    Detection(12, DOG, (150, 10, 30, 30), 0.7),  # background; object 2 is missed
    Detection(13, CAT, (0, 0, 50, 50), 0.6),  # wrong class; object 3 is missed
    Detection(13, CAT, (125, 0, 50, 50), 0.5),  # poor box, IoU 1/3; object 4 is missed
    Detection(14, DOG, (0, 0, 50, 50), 0.2),  # below the threshold
)
CLASS_POINTS = {"cat": {"score": 0.45}, "dog": None}  # no threshold for dogs: that for all classes

# Images in FiftyOne's views of the scene, and objects or detections in views of patches.
VIEWS = {
    "operating_point": 5, "false_positives": 1, "missed_objects": 2, "wrong_class": 1, "poor_boxes": 1, "duplicates": 1,
    "patches_false_positives": 1, "patches_missed_objects": 3, "patches_wrong_class": 1, "patches_poor_boxes": 1,
    "patches_duplicates": 1, "most_errors": 3, "hardest": 3, "best": 0, "small_objects": 0, "crowded": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Project:
    """A folder with ground truth and detections."""

    root: Path

    def write(self, detections: tuple[Detection, ...] = DETECTIONS) -> None:
        annotations.write(SCENE, self.root / "data/unified/val.json")
        results.write(detections, self.root / "predictions/val.json")
        embeddings(len(detections)).write(self.root / "predictions/embeddings_val.npz")
        weights = self.root / "models/detector.safetensors"
        weights.parent.mkdir(exist_ok=True)
        weights.write_bytes(b"weights")
        points = {"weights": digest(weights), "split": "val", "all": {"score": 0.4}, "classes": CLASS_POINTS}
        write_json(self.root / "predictions/operating_point.json", points)


def embeddings(num_detections: int) -> Embeddings:
    """Two directions for the two classes: the nearest neighbors tell the class of all objects, crowds excluded."""
    objects = [item for item in SCENE.annotations if not item.iscrowd]
    generator = np.random.default_rng(0)

    def unit(vectors: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        noisy = vectors + generator.normal(scale=0.1, size=vectors.shape)
        return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float16)

    return Embeddings(
        image_ids=np.array([image.id for image in SCENE.images]),
        images=unit(np.eye(5)),
        annotation_ids=np.array([item.id for item in objects]),
        annotations=unit(np.eye(4)[[int(item.category_id == DOG) for item in objects]]),
        detection_rows=np.arange(num_detections),
        detections=unit(np.ones((num_detections, 4))),
    )


@pytest.fixture
def inspected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The project, in a temporary folder that is the current folder."""
    return make_project(tmp_path, monkeypatch)


def make_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "FIFTYONE_DATABASE_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, folder / name)
    monkeypatch.chdir(folder)
    pictures = folder / "data/raw/digits/pictures"
    pictures.mkdir(parents=True)
    for number, image in enumerate(SCENE.images):
        Pillow.new("RGB", (image.width, image.height), (40 * number, 90, 120)).save(pictures / f"{image.id}.png")
    project = Project(folder)
    project.write()
    return project
