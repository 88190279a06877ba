"""The inspect stage as DVC runs it, on a scene with one error of each kind."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from pipeline.data import annotations
from pipeline.data import detections as results
from pipeline.evaluation import error_kinds
from pipeline.evaluation.embedding_files import EmbeddingMap
from pipeline.files import digest
from pipeline.integrations import fiftyone, mlflow
from pipeline.visualization.inspection import cases, failure_sheets
from tests.support.inspected_project import VIEWS
from tests.support.projects import run_stage


@contextmanager
def read_only(project: Path, *folders: str) -> Iterator[None]:
    """Takes the right to write from files and folders; root has it in spite of that, so what has changed counts."""

    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_ctime_ns) for path in paths()}

    def paths() -> list[Path]:
        return [path for folder in folders for path in (project / folder, *(project / folder).rglob("*"))]

    for path in paths():
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = state()
    yield
    assert state() == before
    for path in paths():
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_it_writes_sheets_and_metrics_fills_fiftyone_and_adds_to_mlflow(inspected: Any) -> None:
    with read_only(inspected.root, "data", "predictions", "models"):
        done = run_stage(inspected.root, "inspect")
    assert (done.returncode, done.stderr) == (0, "")
    numbers = json.loads((inspected.root / "metrics/inspect.json").read_text())
    assert numbers["errors"] == {
        "correct": 1, "wrong_class": 1, "poor_box": 1, "duplicate": 1, "background": 1, "missed": 3,
    }  # fmt: skip
    assert numbers["views"] == VIEWS
    assert numbers["confused_classes"] == [{"truth": "dog", "detected": "cat", "images": 1}]
    # Of three cats and a dog, each cat has a cat as its nearest neighbor. The difficult dog has no vote.
    assert numbers["embeddings"] == {
        "objects": 4, "nearest_neighbor_accuracy": 0.75, "nearest_neighbor_balanced_accuracy": 0.5,
        "chance_accuracy": 0.75, "chance_balanced_accuracy": 0.5,
    }  # fmt: skip
    assert "the class of 75.0% of 4 objects (most common class: 75.0%)" in done.stdout
    report = inspected.root / "reports/failures"
    assert sorted(path.name for path in report.iterdir()) == [
        "duplicates.jpg", "false_positives.jpg", "index.html", "missed_objects.jpg", "most_certain.jpg",
        "poor_boxes.jpg", "wrong_class.jpg",
    ]  # fmt: skip
    store = mlflow.Store.open()
    (run,) = store.client.search_runs([store.experiment])
    assert run.data.tags["predictions"] == digest(inspected.root / "predictions/val.json")
    assert run.data.metrics["inspect/errors/missed"] == 3
    assert run.data.metrics["inspect/views/most_errors"] == 3
    assert run.data.metrics["inspect/embeddings/nearest_neighbor_accuracy"] == 0.75
    assert "failures/index.html" in [item.path for item in store.client.list_artifacts(run.info.run_id, "failures")]
    assert "inspection.html" in [item.path for item in store.client.list_artifacts(run.info.run_id)]
    assert "Errors</dt><dd>7</dd>" in (inspected.root / "reports/inspection.html").read_text()


def test_the_map_shows_objects_and_wrong_detections(inspected: Any) -> None:
    without_fiftyone(inspected.root)
    done = run_stage(inspected.root, "inspect")
    assert (done.returncode, done.stderr) == (0, "")
    found = EmbeddingMap.read(inspected.root / "reports/embeddings.npz")
    assert found.method == "tsne"
    assert found.image_ids.tolist() == [11, 12, 13, 14, 15]
    assert found.annotation_ids.tolist() == [1, 2, 3, 4, 5]
    assert found.detection_rows.tolist() == [1, 2, 3, 4]  # 0 is correct, and 5 has too low a score
    assert [len(found.image_points), len(found.annotation_points), len(found.detection_points)] == [5, 5, 4]
    with Pillow.open(inspected.root / "reports/embeddings.png") as picture:
        assert picture.size == (1080, 800)
    page = (inspected.root / "reports/embeddings.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    kinds = [(data["kinds"][kind], data["classes"][label]["name"]) for _, _, label, kind, *_ in data["objects"]]
    assert kinds == [
        ("object", "cat"), ("object", "dog"), ("missed object", "cat"), ("missed object", "dog"),
        ("missed object", "cat"), ("duplicate", "cat"), ("poor box", "cat"), ("wrong class", "cat"),
        ("on background", "dog"),
    ]  # fmt: skip
    assert [errors for _, _, errors, _ in data["images"]] == [1, 2, 4, 0, 0]


def test_without_a_map_its_files_exist_and_are_empty(inspected: Any) -> None:
    """DVC requires them."""
    without_fiftyone(inspected.root)
    params = inspected.root / "params.yaml"
    params.write_text(params.read_text().replace("  embeddings: tsne", "  embeddings: null"))
    done = run_stage(inspected.root, "inspect")
    assert (done.returncode, done.stderr) == (0, "")
    found = EmbeddingMap.read(inspected.root / "reports/embeddings.npz")
    assert (found.method, len(found.annotation_ids), found.image_points.shape) == ("none", 0, (0, 2))
    assert 'id="embeddings"' not in (inspected.root / "reports/inspection.html").read_text()
    assert json.loads((inspected.root / "metrics/inspect.json").read_text())["embeddings"]["objects"] == 4


def without_fiftyone(project: Path) -> None:
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(re.sub(r"(?m)^  fiftyone: true", "  fiftyone: false", text))


def test_the_operating_point_or_inspect_score_threshold_decides_which_detections_count(
    inspected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The poor box has a score of 0.5, and the best of the others that count is 0.6.

    FiftyOne's process receives the same thresholds; test_fiftyone.py shows that its views follow them.
    """
    thresholds: list[list[float]] = []

    def fill(_module: str, _name: str, specs: list[dict[str, Any]]) -> Any:
        thresholds.extend(spec["score_thresholds"] for spec in specs)
        return {"views": {}, "confused_classes": [], "hardest_by_class": []}

    monkeypatch.setattr(fiftyone, "run_child", fill)

    def inspect(score: str) -> tuple[dict[str, int], str]:
        text = re.sub(r"(?m)^  score_threshold: \S+ # det", score, (inspected.root / "params.yaml").read_text())
        (inspected.root / "params.yaml").write_text(text)
        done = run_stage(inspected.root, "inspect")
        assert (done.returncode, done.stderr) == (0, "")
        numbers = json.loads((inspected.root / "metrics/inspect.json").read_text())
        page = (inspected.root / "reports/failures/index.html").read_text()
        return numbers["errors"], page

    points = inspected.root / "predictions/operating_point.json"
    content = json.loads(points.read_text())
    points.write_text(json.dumps(content | {"classes": {"cat": {"score": 0.55}, "dog": None}}))
    errors, page = inspect("  score_threshold: null # det")
    assert (errors["poor_box"], errors["background"]) == (0, 1)
    assert "a score of at least 0.4 to 0.55, by class." in page
    errors, page = inspect("  score_threshold: 0.5 # det")
    assert (errors["poor_box"], errors["background"]) == (1, 1)
    assert "a score of at least 0.5." in page
    assert thresholds == [[0.55, 0.4], [0.5, 0.5]]


def test_operating_points_of_another_detector_are_refused(inspected: Any) -> None:
    (inspected.root / "models/detector.safetensors").write_bytes(b"other weights")
    done = run_stage(inspected.root, "inspect")
    assert done.returncode == 1
    points = inspected.root / "predictions/operating_point.json"
    assert done.stderr.startswith(f"inspect: {points}: chosen for another detector than ")
    assert done.stderr.count("\n") == 1


def test_a_test_split_that_does_not_exist_is_one_line(inspected: Any) -> None:
    text = (inspected.root / "params.yaml").read_text()
    (inspected.root / "params.yaml").write_text(text.replace("  split: val # val | test", "  split: test"))
    done = run_stage(inspected.root, "inspect")
    assert done.returncode == 1
    assert done.stderr.startswith(f"inspect: {inspected.root}/data/unified/test.json: not there yet; ")
    assert done.stderr.endswith("-S inspect.split=val)\n")


def sheets(inspected: Any, max_images: int) -> Path:
    truth = annotations.read(inspected.root / "data/unified/val.json")
    detections = results.read(inspected.root / "predictions/val.json", truth)
    errors = error_kinds.analyze(truth, detections, score_threshold=0.3, iou_threshold=0.5)
    folder: Path = inspected.root / "sheets"
    images = inspected.root / "data/raw/digits"
    failure_sheets.write(folder, truth, errors, images, max_images=max_images, thresholds=[0.3, 0.3])
    return folder


@pytest.mark.parametrize("name", ["missed_objects", "false_positives"])
def test_the_error_in_question_is_drawn_bright(inspected: Any, name: str) -> None:
    with Pillow.open(sheets(inspected, 24) / f"{name}.jpg") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    colors = cases.TRUTH_COLOR, cases.DETECTION_COLOR
    bright, dimmed = colors if name == "missed_objects" else colors[::-1]
    assert (np.abs(pixels - bright).max(axis=-1) < 40).sum() > 500
    assert (np.abs(pixels - dimmed).max(axis=-1) < 40).sum() < 50


def test_a_16_bit_image_looks_like_its_8_bit_version(inspected: Any) -> None:
    file = inspected.root / "data/raw/digits/pictures/12.png"
    gray = np.tile(np.arange(200, dtype=np.uint8), (100, 1))
    Pillow.fromarray(gray).save(file)
    expected = (sheets(inspected, 24) / "missed_objects.jpg").read_bytes()
    shutil.rmtree(inspected.root / "sheets")
    Pillow.fromarray(gray.astype(np.uint16) * 256 + 77).save(file)
    with Pillow.open(file) as stored:
        assert stored.mode.startswith("I")
    assert (sheets(inspected, 24) / "missed_objects.jpg").read_bytes() == expected


def test_max_images_shows_the_worst_images(inspected: Any) -> None:
    folder = sheets(inspected, 1)
    with Pillow.open(folder / "missed_objects.jpg") as picture:
        assert picture.width < 600
        blue = picture.getpixel((picture.width // 2, picture.height - 100))
    assert np.abs(np.subtract(blue, (40, 90, 120))).max() < 8  # image 12 has the largest missed object
    assert "2 images in total" in (folder / "index.html").read_text()


def test_an_undecodable_image_is_a_one_line_error_and_leaves_no_output(inspected: Any) -> None:
    (inspected.root / "data/raw/digits/pictures/13.png").write_bytes(b"\x89PNG")
    done = run_stage(inspected.root, "inspect")
    assert done.returncode == 1
    file = inspected.root / "data/raw/digits/pictures/13.png"
    assert done.stderr.startswith(f"inspect: {file}: can't be decoded as an image")
    assert done.stderr.count("\n") == 1
    assert not (inspected.root / "metrics/inspect.json").exists()
    assert list((inspected.root / "reports").iterdir()) == []


def test_a_database_that_does_not_answer_is_a_one_line_error(inspected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://127.0.0.1:9")
    done = run_stage(inspected.root, "inspect")
    assert done.returncode == 1
    assert done.stderr.startswith("inspect: FIFTYONE_DATABASE_URI=mongodb://127.0.0.1:9: no answer; ")
    assert done.stderr.count("\n") == 1
