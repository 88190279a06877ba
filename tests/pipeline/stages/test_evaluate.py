"""The evaluate stage on a split of known detections: which splits it evaluates, and at which thresholds."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fcos.config import PAPER, InputSize
from fcos.detector import build
from fcos.weights import Description, save_detector
from pipeline.cli import main
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.data.detections import Detection
from pipeline.evaluation.embedding_files import Embeddings
from pipeline.inference import detect
from pipeline.integrations import mlflow
from tests.support.paths import PROJECT
from tests.support.projects import run_stage

BOX, WRONG = (0.0, 0.0, 10.0, 10.0), (30.0, 30.0, 10.0, 10.0)
CATEGORIES = (Category(7, "cat"), Category(3, "dog"))
SCORES = {"val": (0.9, 0.9, 0.9, 0.9), "test": (0.95, 0.5)}  # of the correct detection in each image


def split(name: str, objects: bool = True) -> AnnotationSet:
    """An object in each image; the images of `test` have other ids."""
    first = 1 if name == "val" else 11
    images = tuple(Image(first + index, f"{first + index}.jpg", 50, 50) for index in range(len(SCORES[name])))
    return AnnotationSet(
        CATEGORIES, images, tuple(Annotation(image.id, image.id, 7, BOX, 100.0) for image in images if objects)
    )


@dataclass
class LoggedRun:
    metrics: dict[str, float] = field(default_factory=dict)

    def log_evaluation(self, values: dict[str, float], weights: str, split: str, truth: AnnotationSet) -> None:
        assert len(weights) == 64
        assert len(truth.images) == len(SCORES[split])
        self.metrics |= values

    def log_artifacts(self, *paths: Path) -> None:
        assert all(path.is_file() for path in paths)

    def mark_finished(self, digest: str) -> None:
        pass


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> LoggedRun:
    run = LoggedRun()

    @contextmanager
    def evaluate_run(*_: Any) -> Iterator[LoggedRun]:
        yield run

    monkeypatch.setattr(mlflow, "evaluate_run", evaluate_run)
    return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a detector, whose detections are a correct one and a wrong one, with a score of 0.3, per image."""
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    config = replace(PAPER, backbone="tiny", pretrained=False, channels=8, levels=(3,), tower_depth=0, frozen_stages=0)
    classes = tuple((category.id, category.name) for category in CATEGORIES)
    description = Description(model=config, categories=classes, input_size=InputSize((100, 100)))
    save_detector(build(config, 2), description, tmp_path / "models/detector.safetensors")
    annotations.write(split("val"), tmp_path / "data/unified/val.json")

    def detect_split(_: Any, images: AnnotationSet, *__: Any, **___: Any) -> Iterator[Detection]:
        scores = SCORES["val" if images.images[0].id == 1 else "test"]
        for image, score in zip(images.images, scores, strict=True):
            yield Detection(image.id, 7, BOX, score)
            yield Detection(image.id, 7, WRONG, 0.3)

    monkeypatch.setattr(detect, "detect_split", detect_split)
    return tmp_path


def run(project: Path) -> str:
    done = run_stage(project, "evaluate")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_test_split_is_measured_at_the_thresholds_chosen_on_val(project: Path, logged: LoggedRun) -> None:
    annotations.write(split("test"), project / "data/unified/test.json")
    printed = run(project)
    val, test = read(project / "metrics/evaluate.json"), read(project / "metrics/test.json")
    assert val["operating_point"] == {"score": 0.9, "precision": 1.0, "recall": 1.0, "f1": 1.0}
    # With a threshold of its own, 0.5, the test split would have a recall of 1.
    assert test["operating_point"] == {"score": 0.9, "precision": 1.0, "recall": 0.5, "f1": 0.666667}
    assert (val["images"], test["images"], test["coco"]["AP"]) == (4, 2, 1.0)
    points = read(project / "predictions/operating_point.json")
    assert (points["split"], points["confirmed"], points["all"]["recall"]) == ("val", False, 1.0)
    assert points["views"] == {"sizes": None, "flip": False, "tiles": None, "merge": "nms", "merge_iou_threshold": 0.65}
    assert [item["image_id"] for item in read(project / "predictions/test.json")] == [11, 11, 12, 12]
    # The detections of this test come from no detector, so there is nothing to embed.
    assert Embeddings.read(project / "predictions/embeddings_test.npz").images.shape == (0, 8)
    card = (project / "reports/model_card.md").read_text()
    assert "| Recall | 1.000 |  | 0.500 |  |" in card
    assert "are optimistic" in card  # four images are too few to confirm thresholds on others
    assert logged.metrics["operating_point/recall"] == 1.0
    assert logged.metrics["test/operating_point/recall"] == 0.5
    assert printed.count("Average Precision  (AP) @[ IoU=0.50:0.95") == 2 * 4
    assert "\nTest split:\n" in printed


@pytest.mark.usefixtures("logged")
def test_the_command_gives_the_same_numbers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations.write(split("test"), project / "data/unified/test.json")
    run(project)
    monkeypatch.chdir(project)
    for options, file in {("--split", "test"): "test", (): "evaluate"}.items():
        done = CliRunner().invoke(main, ["evaluate", "--json", *options])
        assert (done.exit_code, done.stderr) == (0, "")
        expected = read(project / f"metrics/{file}.json")
        assert {name: value for name, value in json.loads(done.stdout).items() if name in expected} == expected
    (project / "predictions/val.json").unlink()
    done = CliRunner().invoke(main, ["evaluate"])
    assert done.stderr.endswith("predictions/val.json: not there yet; run `dvc repro`, or give --gt and --dets\n")


@pytest.mark.usefixtures("logged")
@pytest.mark.parametrize("case", ["no test split", "test split without objects", "evaluate.test: false"])
def test_without_a_test_split_its_metrics_are_an_empty_object(project: Path, case: str) -> None:
    """DVC requires the file."""
    if case != "no test split":
        annotations.write(split("test", objects=case == "evaluate.test: false"), project / "data/unified/test.json")
    if case == "evaluate.test: false":
        text = (project / "params.yaml").read_text()
        (project / "params.yaml").write_text(text.replace("  test: true #", "  test: false #"))
    assert "Test split" not in run(project)
    assert read(project / "metrics/test.json") == {}
    assert not (project / "predictions/test.json").exists()
