"""The FiftyOne dataset in a real database, and the FiftyOne App in a real browser.

One project is filled once for most tests, and one App and one browser show it: importing FiftyOne takes a process
seconds.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pytest
import requests
from click.testing import CliRunner
from PIL import Image as Pillow
from pymongo import MongoClient

from pipeline import params
from pipeline.analysis import suggestion_files
from pipeline.analysis.suggestion_files import SuggestedBox, SuggestedImage
from pipeline.cli import main
from pipeline.conversion import corrections
from pipeline.conversion.apply_corrections import apply_corrections
from pipeline.conversion.corrections import Labelled
from pipeline.conversion.issues import IssueLog
from pipeline.data.detections import Detection
from pipeline.errors import PipelineError
from pipeline.evaluation.embedding_files import EmbeddingMap
from pipeline.files import write_json
from pipeline.integrations import dvc, fiftyone, fiftyone_corrections, fiftyone_labels, fiftyone_server, mongo, servers
from pipeline.integrations.fiftyone_fields import ExperimentFields
from pipeline.integrations.fiftyone_layout import DETECTION_COLORS, TRUTH_COLORS
from tests.support import app_edits
from tests.support.fiftyone_process import FiftyOneProcess, fiftyone_process
from tests.support.inspected_project import CAT, DETECTIONS, DOG, SCENE, VIEWS, Project, make_project
from tests.support.listening import loopback_only
from tests.support.paths import PROJECT
from tests.support.process_trees import assert_gone, command_words, descendants

CHROMIUM = Path("/usr/bin/chromium")
# Finds object 2, which the workspace misses, and nothing in image 11.
EXPERIMENT = (
    Detection(12, CAT, (20, 20, 60, 60), 0.95),
    Detection(13, CAT, (0, 0, 50, 50), 0.6),
    Detection(13, CAT, (100, 0, 50, 50), 0.8),
)
IMAGE_POINTS = ((0, 0), (1, 0), (0, 1), (1, 1), (5, 5))  # of the images in the map of embeddings
# Prints what FiftyOne reads from the dataset: the labels of every saved view in order, evaluations, the layout.
DESCRIBE = """
import json, fiftyone as fo
(name,) = fo.list_datasets()
dataset = fo.load_dataset(name)

def labels(sample, field):
    value = sample[field]
    items = getattr(value, "detections", [value])
    return [[d.label, d["error"], getattr(d, "confidence", None)] for d in items]

views, with_label_errors = {}, []
for view in dataset.list_saved_views():
    shown = dataset.load_saved_view(view)
    fields = [f for f in ("ground_truth", "predictions") if f in shown.get_field_schema()]
    if "label_errors" in shown.get_field_schema():
        with_label_errors.append(view)
    views[view] = [[s.filepath, *[labels(s, field) for field in fields]] for s in shown]
evaluations = {}
for key in dataset.list_evaluations():
    results = dataset.load_evaluation_results(key)
    evaluations[key] = {"config": dataset.get_evaluation_info(key).config.serialize(), "metrics": results.metrics(),
        "confusion": results.confusion_matrix(classes=["cat", "dog", results.missing]).tolist(),
        "custom": results.custom_metrics,
        "patches": len(dataset.to_evaluation_patches(key))}
maps, similar = {}, {}
for key in dataset.list_brain_runs():
    found = dataset.load_brain_results(key)
    if key.startswith("similar"):
        similar[key] = len(found.sample_ids)
    else:
        ids = found.sample_ids if key == "images" else found.label_ids
        maps[key] = dict(zip([str(id) for id in ids], found.points.tolist()))
workspace = dataset.load_workspace("inspect")
config = dataset.app_config
print(json.dumps({"name": name, "maps": maps, "similar": similar, "views": views,
    "with_label_errors": with_label_errors,
    "evaluations": evaluations, "persistent": dataset.persistent,
    "panels": [[panel.type for panel in side.children] for side in workspace.children],
    "active": config.active_fields.paths, "groups": {g.name: g.paths for g in config.sidebar_groups},
    "count": len(dataset), "classes": dataset.default_classes}))
"""


@dataclass(frozen=True)
class Filled:
    """A project whose dataset has been filled: for the workspace, for an experiment, and for the workspace again."""

    project: Project
    process: FiftyOneProcess
    counts: list[dict[str, Any]]
    samples: list[list[dict[str, Any]]]  # the database's documents after each time, by image id
    described: dict[str, Any]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = make_project(tmp_path_factory.mktemp("filled"), monkeypatch)
        (project.root / "metrics").mkdir()
        (project.root / "metrics/evaluate.json").write_text('{"coco": {"AP": 0.25, "AP50": 0.5}}')
        write_extras(project.root / "reports")
        counts, samples = [], []
        with fiftyone_process(project.root) as process:
            for module in (fiftyone, fiftyone_corrections):
                monkeypatch.setattr(module, "run_child", process.run_child)
            for experiment in (None, "giou-1", None):
                (
                    monkeypatch.setenv("DVC_EXP_NAME", experiment)
                    if experiment
                    else monkeypatch.delenv("DVC_EXP_NAME", raising=False)
                )
                project.write(EXPERIMENT if experiment else DETECTIONS)
                counts.append(fiftyone.refresh(fiftyone.dataset_spec(params.load())))
                samples.append(stored_samples(process.uri))
            yield Filled(project, process, counts, samples, process.run_code(DESCRIBE))


def write_extras(folder: Path) -> None:
    """A map of all images, of objects 1 and 4 and of the detection of image 12; two label errors."""
    points = np.array(IMAGE_POINTS, dtype=np.float32)
    images = np.array([image.id for image in SCENE.images])
    folder.mkdir()
    EmbeddingMap(images, points, np.array([1, 4]), points[:2], np.array([2]), points[:1], "tsne").write(
        folder / "embeddings.npz"
    )
    error = {"image_id": 13, "file_name": "pictures/13.png", "split": "val"}
    records = [
        {**error, "kind": "wrong_class", "rank_score": 0.9, "annotation_id": 3, "bbox": None, "category": "cat"},
        {**error, "kind": "missing", "rank_score": 0.8, "annotation_id": None, "bbox": [100, 50, 50, 25],
         "category": "dog"},
        {**error, "kind": "spurious", "rank_score": 0.7, "annotation_id": 3, "bbox": None, "category": None,
         "split": "train"},
    ]  # fmt: skip
    write_json(folder / "label_errors.json", records)


def stored_samples(uri: str) -> list[dict[str, Any]]:
    with MongoClient[dict[str, Any]](uri) as client:
        database = client["fiftyone"]
        (dataset,) = database["datasets"].find({"name": "fcos-digits"})
        return list(database[dataset["sample_collection_name"]].find().sort("image_id"))


def test_counts_of_the_views(filled: Filled) -> None:
    first, experiment, again = filled.counts
    assert first == again == {
        "views": {**VIEWS, "label_errors": 1, "patches_label_errors": 2},
        "confused_classes": [{"truth": "dog", "detected": "cat", "images": 1}],
        "hardest_by_class": [{"class": "cat", "images": 3}, {"class": "dog", "images": 2}],
    }  # fmt: skip
    # Image 12 and 13 have fewer errors than in the workspace, image 11 has as many: a missed object.
    assert experiment["views"] == {
        "operating_point": 5, "false_positives": 0, "patches_false_positives": 0, "wrong_class": 1,
        "patches_wrong_class": 1, "poor_boxes": 0, "patches_poor_boxes": 0, "duplicates": 0, "patches_duplicates": 0,
        "missed_objects": 2, "patches_missed_objects": 2, "most_errors": 2, "hardest": 2, "best": 1,
        "small_objects": 0, "crowded": 1, "better": 2, "worse": 0, "label_errors": 1, "patches_label_errors": 2,
    }  # fmt: skip


def test_views_show_what_their_names_say_in_order(filled: Filled) -> None:
    described, folder = filled.described, filled.project.root / "data/raw/digits/pictures"
    assert (described["name"], described["persistent"], described["count"]) == ("fcos-digits", True, 5)
    views = {
        name: [[int(Path(path).relative_to(folder).stem), *labels] for path, *labels in rows]
        for name, rows in described["views"].items()
    }
    images = {name: [image for image, *_ in rows] for name, rows in views.items()}
    assert images == {
        "Operating point": [11, 12, 13, 14, 15],
        "False positives": [12], "False positives (patches)": [12],
        "Wrong class": [13], "Wrong class (patches)": [13],
        "Poor boxes": [13], "Poor boxes (patches)": [13],
        "Duplicates": [11], "Duplicates (patches)": [11],
        "Missed objects": [12, 13],  # the largest first: 60 pixels, then 50
        "Missed objects (patches)": [12, 13, 13],
        "Most errors": [13, 12, 11],
        "Hardest images": [12, 13, 11],  # two of two wrong, four of four wrong, one of two
        "Best images": [], "Small objects": [], "Crowded images": [13],
        "Confused: dog → cat": [13],
        "Label errors": [13], "Label errors (patches)": [13, 13],
        "Hardest: cat": [13, 11, 12], "Hardest: dog": [12, 13],  # 3, 1, 1 errors; 1, 1
        "giou-1 better than workspace": [12, 13], "giou-1 worse than workspace": [],
    }  # fmt: skip
    assert described["with_label_errors"] == ["Label errors", "Label errors (patches)"]
    assert views["Operating point"][3] == [14, [], []]  # its detection has a score of 0.2
    assert views["False positives"][0][2] == [["dog", "background", 0.7]]
    assert views["Wrong class"][0][2] == [["cat", "wrong_class", 0.6]]
    assert views["Poor boxes (patches)"] == [[13, [["cat", "poor_box", 0.5]]]]
    assert views["Duplicates"][0][1:] == [[["cat", "found", None]], [["cat", "duplicate", 0.8]]]
    assert views["Missed objects"][1][1] == [["dog", "missed", None], ["cat", "missed", None]]


def test_fields_of_samples(filled: Filled) -> None:
    samples = {sample["image_id"]: sample for sample in filled.samples[-1]}
    found = {
        image: [sample[name] for name in ("errors", "most_certain_error", "objects", "smallest_object")]
        for image, sample in samples.items()
    }
    assert found == {
        11: [1, 0.8, 1, 40.0], 12: [2, 0.7, 1, 60.0], 13: [4, 0.6, 2, 50.0], 14: [0, None, 0, None],
        15: [0, None, 0, None],
    }  # fmt: skip
    # One object found with an IoU of 1 and one wrong detection; in image 15, a crowd and a difficult object.
    assert [samples[image]["lrp_error"] for image in samples] == [0.5, 1.0, 1.0, None, None]
    assert [samples[image]["ap50"] for image in samples] == [1.0, 0.0, 0.0, None, None]
    assert {(sample["split"], sample["source"]) for sample in samples.values()} == {("val", "pictures")}
    assert samples[13]["metadata"] == {"_cls": "ImageMetadata", "width": 200, "height": 100}
    (box,) = samples[11]["ground_truth"]["detections"]
    assert (box["bounding_box"], box["annotation_id"], box["size"]) == ([0.05, 0.1, 0.2, 0.4], 1, 40.0)
    (low,) = samples[14]["predictions"]["detections"]
    assert (low["error"], low["confidence"]) == ("low_score", 0.2)


def test_an_experiment_has_fields_of_its_own_and_touches_no_others(filled: Filled) -> None:
    before, after, again = filled.samples
    experiment = ("predictions_giou_1", "errors_giou_1", "most_certain_error_giou_1", "ap50_giou_1", "lrp_error_giou_1")
    added = {*experiment, *(f"eval_giou_1_{count}" for count in ("tp", "fp", "fn"))}
    for old, new in zip(before, after, strict=True):
        assert new.keys() - old.keys() == added
        changed = {name for name in old if old[name] != new[name]}
        labels = {"ground_truth"} if any(not label["ignored"] for label in old["ground_truth"]["detections"]) else set()
        assert changed - {"ground_truth"} == {"last_modified_at"}
        assert labels <= changed
        for first, second in zip(old["ground_truth"]["detections"], new["ground_truth"]["detections"], strict=True):
            assert first.items() <= second.items()
            assert {name.removesuffix("_id").removesuffix("_iou") for name in second.keys() - first.keys()} <= {
                "error_giou_1", "eval_giou_1",
            }  # fmt: skip
    assert [label["error_giou_1"] for sample in after for label in sample["ground_truth"]["detections"]] == [
        "missed", "found", "missed", "found", "ignored", "ignored",
    ]  # fmt: skip
    assert again == after  # the workspace was up to date


def test_evaluations_are_those_of_the_operating_point(filled: Filled) -> None:
    evaluations = filled.described["evaluations"]
    assert set(evaluations) == {"eval", "eval_giou_1"}
    workspace, experiment = evaluations["eval"], evaluations["eval_giou_1"]
    assert (workspace["config"]["iou"], workspace["config"]["pred_field"]) == (0.5, "predictions")
    # Rows are objects, columns detections: cat, dog, none. The poor box and the duplicate belong to no object.
    assert workspace["confusion"] == [[1, 0, 2], [1, 0, 0], [2, 1, 0]]
    assert experiment["confusion"] == [[2, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert {name: value["value"] for name, value in workspace["custom"].items()} == {"AP": 0.25, "AP50": 0.5}


def test_the_app_opens_with_the_workspace_and_the_boxes_of_one_experiment(filled: Filled) -> None:
    described = filled.described
    assert described["panels"] == [["Samples"], ["model_evaluation_panel_builtin", "Embeddings", "Histograms"]]
    assert described["active"] == ["ground_truth", "predictions", "label_errors"]
    groups = described["groups"]
    assert list(groups) == ["tags", "labels", "errors", "metadata", "giou_1", "other"]
    assert groups["errors"] == ["errors", "most_certain_error", "ap50", "lrp_error"]
    assert groups["giou_1"][0] == "predictions_giou_1"
    assert described["classes"] == ["cat", "dog"]


def test_maps_of_embeddings_and_label_errors(filled: Filled) -> None:
    samples = {sample["image_id"]: sample for sample in filled.samples[-1]}
    objects = {label["annotation_id"]: str(label["_id"]) for sample in samples.values() for label in truth_of(sample)}
    (detection,) = samples[12]["predictions"]["detections"]
    assert filled.described["maps"] == {
        "images": {
            str(samples[image.id]["_id"]): list(point) for image, point in zip(SCENE.images, IMAGE_POINTS, strict=True)
        },
        "objects": {objects[1]: [0, 0], objects[4]: [1, 0]},
        "detections": {str(detection["_id"]): [0, 0]},
    }
    assert filled.described["similar"] == {"similar_images": 5, "similar_objects": 2}
    errors = samples[13]["label_errors"]["detections"]
    names = ("kind", "label", "bounding_box", "annotation_id")
    assert [[error.get(name) for name in names] for error in errors] == [
        ["wrong_class", "cat", [0, 0, 0.25, 0.5], 3], ["missing", "dog", [0.5, 0.5, 0.25, 0.25], None],
    ]  # fmt: skip


def truth_of(sample: dict[str, Any]) -> list[dict[str, Any]]:
    labels: list[dict[str, Any]] = sample["ground_truth"]["detections"]
    return labels


def test_filling_does_without_torch(filled: Filled) -> None:
    """Which would take a second of each process that imports FiftyOne."""
    assert filled.process.run_code("import sys; print(int('torch' in sys.modules))") == 0


def test_documents_are_those_that_fiftyone_writes(filled: Filled) -> None:
    """The keys and types of FiftyOne 1.22.1, copied from its database."""
    sample = filled.samples[0][0]
    label = sample["predictions"]["detections"][0]
    assert {name: type(value).__name__ for name, value in sample.items()}.items() >= {
        "_id": "ObjectId", "filepath": "str", "tags": "list", "metadata": "dict", "_media_type": "str",
        "_rand": "float", "_dataset_id": "ObjectId", "created_at": "datetime", "last_modified_at": "datetime",
        "ground_truth": "dict", "predictions": "dict", "eval_tp": "int", "eval_fp": "int", "eval_fn": "int",
    }.items()  # fmt: skip
    assert sample["predictions"]["_cls"] == "Detections"
    assert {name: type(value).__name__ for name, value in label.items()}.items() >= {
        "_id": "ObjectId", "_cls": "str", "attributes": "dict", "tags": "list", "label": "str",
        "bounding_box": "list", "confidence": "float", "eval": "str", "eval_id": "str", "eval_iou": "float",
    }.items()  # fmt: skip


def test_only_an_experiment_on_other_images_has_a_dataset_of_its_own(
    inspected: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path_factory.mktemp("clone")
    files = ("dvc.yaml", "params.yaml", "data/unified/val.json", "predictions/val.json")
    for name in (*files, "predictions/operating_point.json"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text((inspected.root / name).read_text())
    shutil.copytree(inspected.root / "data/raw", clone / "data/raw")
    monkeypatch.setenv("DVC_ROOT", str(inspected.root))
    monkeypatch.setenv("DVC_EXP_NAME", "giou-1")
    monkeypatch.chdir(clone)
    spec = fiftyone.dataset_spec(params.load())
    assert (spec.name, spec.experiment, spec.owns_truth, spec.show) == ("fcos-digits", "giou-1", False, False)
    assert spec.predictions == str(clone / "predictions/val.json")
    assert spec.images == str(inspected.root / "data/raw/digits")
    # An experiment with other images under the same names gets its own copies.
    image = next(file for file in sorted((clone / "data/raw/digits").rglob("*")) if file.is_file())
    image.write_bytes(image.read_bytes() + b"other")
    spec = fiftyone.dataset_spec(params.load())
    assert (spec.name, spec.owns_truth) == ("fcos-digits-giou-1", True)
    copies = Path(spec.images)
    assert copies == inspected.root / ".fcos/images/fcos-digits-giou-1"
    name = image.relative_to(clone / "data/raw/digits")
    shutil.rmtree(clone / "data/raw")
    assert (copies / name).read_bytes().endswith(b"other")


def test_names_of_datasets() -> None:
    """FiftyOne's own rule would give the first three one name, and the next two none."""
    names = [
        fiftyone.dataset_name(f"fcos-{name}") for name in ("o'brien", "obrien", "O'Brien", "日本", "日本語", "x" * 200)
    ]
    assert names[:2] == ["fcos-o-brien-ed10acb8", "fcos-obrien"]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", name) and len(name) < 100 for name in names)


def test_names_of_an_experiments_fields() -> None:
    names = [
        ExperimentFields.of(name).predictions for name in (None, "giou-1", "lr_0", "lr 0", "lr.0", "日本", "日本語")
    ]
    assert names[:3] == ["predictions", "predictions_giou_1", "predictions_lr_0"]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.isascii() for name in names)
    assert ExperimentFields.of("giou-1").eval == "eval_giou_1"


def test_missing_predictions_give_one_line(inspected: Any) -> None:
    (inspected.root / "predictions/val.json").unlink()
    result = CliRunner().invoke(main, ["app", "--port", str(servers.find_free_port())])
    assert result.exit_code == 1
    assert result.stderr == f"fcos: {inspected.root}/predictions/val.json: not there yet; run `dvc repro`\n"


def test_a_broken_input_gives_one_line(inspected: Any) -> None:
    (inspected.root / "data/unified/val.json").write_text("{")
    with pytest.raises(PipelineError, match=r"val\.json: not JSON") as caught:
        fiftyone.refresh(fiftyone.dataset_spec(params.load()))
    assert "\n" not in str(caught.value)


@contextmanager
def run_app(folder: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    code = f"from pipeline.cli import main; main(['app', '--port', '{port}'])"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


@dataclass(frozen=True)
class App:
    """A running `fcos app`, and its printed address."""

    process: "subprocess.Popen[str]"
    address: str
    root: Path

    @property
    def server(self) -> str:
        return self.address.partition("/datasets")[0]


@pytest.fixture(scope="module")
def running_app(filled: Filled) -> Iterator[App]:
    with run_app(filled.project.root, port := servers.find_free_port()) as process:
        assert process.stdout is not None
        with loopback_only():
            printed = process.stdout.readline()
        page = rf"http://127.0.0.1:{port}/datasets/fcos-digits\?view=operating-point&workspace=inspect"
        assert re.fullmatch(rf"FiftyOne: {page}&token=[\w-]{{43}}  \(Ctrl-C stops it\)\n", printed), printed
        yield App(process, printed.split()[1], filled.project.root)


@pytest.fixture(scope="module")
def page(running_app: App) -> Iterator[Any]:
    """The App's page in Chromium."""
    if not CHROMIUM.is_file():
        pytest.skip("chromium is not installed at /usr/bin/chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=options)
        # Small, and without animations: drawing takes most of the browser's time.
        opened = browser.new_page(viewport={"width": 1200, "height": 700}, reduced_motion="reduce")
        opened.set_default_timeout(60_000)
        # Without the workspace, whose panels take most of the time that a view takes to open.
        opened.goto(running_app.address.replace("&workspace=inspect", ""))
        opened.wait_for_selector('[data-cy="looker"] canvas')
        opened.get_by_text("Dismiss", exact=True).click()  # an advertisement
        yield opened
        browser.close()


def test_only_the_owner_gets_in_and_only_images_are_served(running_app: App) -> None:
    owner = assert_only_the_owner_gets_in(running_app.address)
    assert_only_images_of_the_dataset_are_served(owner, f"{running_app.server}/media", running_app.root)
    port = int(running_app.server.rpartition(":")[2])
    children = descendants(running_app.process.pid)
    listening = {c.laddr for child in children for c in child.net_connections() if c.status == "LISTEN"}
    assert listening == {("127.0.0.1", port)}
    second = CliRunner().invoke(main, ["app", "--port", str(port)])
    assert second.exit_code == 1
    assert second.stderr.startswith(f"fcos: 127.0.0.1:{port}: address already in use")


def test_the_grid_shows_boxes_in_the_colors_of_their_errors(page: Any) -> None:
    page.wait_for_timeout(2000)  # boxes are drawn after their image
    grid = page.locator('[data-cy="looker"]')
    assert grid.count() == 5
    pixels = [np.asarray(Pillow.open(BytesIO(grid.nth(number).screenshot())).convert("RGB")) for number in range(5)]
    colors = {**TRUTH_COLORS, **DETECTION_COLORS}
    shown = [
        {
            name
            for name, color in colors.items()
            if (np.abs(image.astype(int) - rgb(color)).max(axis=-1) < 36).sum() > 15
        }
        for image in pixels
    ]
    assert shown[0] >= {"found"}
    assert shown[1] >= {"missed", "background"}
    assert shown[2] >= {"missed", "poor_box"}  # the wrong class lies on its object
    assert shown[3] == set()  # its detection has a low score


def rgb(color: str) -> list[int]:
    return [int(color[start : start + 2], 16) for start in (1, 3, 5)]


def test_saved_views_of_each_form_open_in_the_app(page: Any) -> None:
    """The contents of all of them are tested above; the page takes seconds for each."""
    for name, count in (
        ("Missed objects", 2),
        ("Missed objects (patches)", 3),
        ("Confused: dog → cat", 1),
        ("Hardest: cat", 3),
        ("Label errors (patches)", 2),
        ("giou-1 better than workspace", 2),
    ):
        open_view(page, name, count)


def open_view(page: Any, name: str, count: int) -> None:
    """Opens a saved view, and waits for its images or patches."""
    from playwright.sync_api import expect

    page.locator('[data-cy="saved-views-selection"]').click()
    option = re.sub(r"\W+", "-", name.lower()).strip("-")
    page.locator(f'[data-cy="saved-views-{option}-selection-option"]').click()
    singular, plural = ("patch", "patches") if "patches" in name else ("sample", "samples")
    text = f"{count} {singular if count == 1 else plural}"
    expect(page.locator('[data-cy="entry-counts"]')).to_have_text(text, timeout=60_000)
    expect(page.locator('[data-cy="looker"]')).to_have_count(count, timeout=60_000)


def test_tags_and_edited_boxes_become_corrections(page: Any, running_app: App) -> None:
    """From the App through `fcos collect` to the annotations of a conversion."""
    open_view(page, "Operating point", 5)
    app_edits.open_image(page, 1)
    app_edits.click_box(page, (30, 70))
    app_edits.tag(page, "relabel:dog")
    app_edits.open_editor(page)
    app_edits.click_box(page, (30, 70))
    app_edits.drag_corner(page, (80, 80), (100, 90))
    result = CliRunner(catch_exceptions=False).invoke(main, ["collect"])
    assert result.exit_code == 0, result.stderr
    file = running_app.root / "data/corrections/digits.json"
    (record,) = corrections.read(file)
    assert (record.file_name, record.before) == ("pictures/12.png", Labelled("cat", (20.0, 20.0, 60.0, 60.0)))
    assert record.after is not None
    assert (record.action, record.after.category) == ("move", "dog")
    assert record.after.bbox == pytest.approx((20, 20, 80, 70), abs=0.5)
    log = IssueLog(params.load().convert)
    converted, report = apply_corrections({"val": SCENE}, file, set(), log)
    assert report is not None
    assert (report["applied"], log.issues) == ({"move": 1}, [])
    (box,) = (item for item in converted["val"].annotations if item.image_id == 12)
    assert (box.id, box.category_id, box.bbox) == (2, DOG, record.after.bbox)


def test_the_saved_workspace_compares_two_experiments(page: Any, running_app: App) -> None:
    page.goto(f"{running_app.server}/datasets/fcos-digits?view=operating-point&workspace=inspect")
    panel = page.locator('[data-cy="panel-content-model_evaluation_panel_builtin"]')
    app_edits.click_until_shown(
        panel.get_by_text("eval_giou_1", exact=True), comparison := panel.get_by_text("Select a comparison")
    )
    comparison.click()
    page.locator("li", has_text=re.compile("^eval$")).last.click()
    row = panel.locator("tr", has_text="Precision")
    row.get_by_text("0.2", exact=True).wait_for()
    # Two of three detections are correct, and one of five.
    assert re.findall(r"\d[\d.]*", row.inner_text())[:2] == ["0.667", "0.2"]


def test_a_lasso_in_the_embeddings_panel_selects_images(page: Any) -> None:
    from playwright.sync_api import expect

    page.get_by_text("Embeddings", exact=True).click()
    panel = page.locator('[data-cy="panel-content-Embeddings"]')
    panel.get_by_role("button", name=re.compile("^images")).click()
    panel.get_by_text("5 points", exact=True).wait_for()
    panel.get_by_text("Select", exact=True).click()
    # Around images 11 and 13, whose first coordinate is the smallest.
    app_edits.draw_lasso(page, panel.locator("canvas"), ((0.02, 0.02), (0.18, 0.02), (0.18, 0.98), (0.02, 0.98)))
    panel.get_by_text("2 selected · 5 points", exact=True).wait_for()
    assert panel.get_by_text("2 samples").count() == 1
    page.locator('[data-cy="entry-counts"]', has_text="2 samples").wait_for()
    expect(page.locator('[data-cy="looker"]')).to_have_count(2, timeout=60_000)


def test_prune_removes_the_fields_of_experiments_that_dvc_no_longer_has(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dvc, "git", lambda *_: ".git")
    monkeypatch.setattr(dvc, "experiment_names", lambda: {"other"})
    result = CliRunner().invoke(main, ["app", "--prune"])
    pruned = stored_samples(filled.process.uri)
    assert (result.exit_code, result.stdout) == (0, "removed from FiftyOne: giou-1\n")
    for sample, before in zip(pruned, filled.samples[-1], strict=True):
        assert sample.keys() == {name for name in before if "giou_1" not in name}
        assert not any("giou_1" in name for label in truth_of(sample) for name in label)
        assert sample["predictions"] == before["predictions"]


TAG_PATCHES = """
import fiftyone as fo
dataset = fo.load_dataset("fcos-digits")
dataset.load_saved_view("Missed objects (patches)").limit(1).tag_samples("remove")
dataset.load_saved_view("False positives (patches)").tag_samples("add")
dataset.load_saved_view("Label errors (patches)").limit(1).tag_samples("checked")
print("[]")
"""
UNTAG = """
import json, fiftyone as fo
dataset = fo.load_dataset("fcos-digits")
names = ("Missed objects (patches)", "False positives (patches)")
print(json.dumps([dataset.count_label_tags(), *(dataset.load_saved_view(name).count_sample_tags() for name in names)]))
dataset.untag_labels(["add", "remove", "checked"])
"""


def test_a_tag_of_a_patch_is_one_of_its_box_and_stays_when_boxes_are_written_anew(filled: Filled) -> None:
    """The App offers *Patches* first, and FiftyOne keeps such tags apart from the boxes."""
    filled.process.run_code(TAG_PATCHES)
    collect = ["collect", "--dry-run"]
    before = CliRunner(catch_exceptions=False).invoke(main, collect)
    assert [line for line in before.stdout.splitlines() if line.startswith("+")] == [
        "+ pictures/12.png: remove cat [20.0, 20.0, 60.0, 60.0]",
        "+ pictures/12.png: add dog [150.0, 10.0, 30.0, 30.0]",
    ]
    spec = fiftyone.dataset_spec(params.load())
    # Other metrics: the detections are written anew, and with them the label errors.
    for metrics in (spec.metrics, {"AP": 0.5}, spec.metrics):
        fiftyone.refresh(replace(spec, metrics=metrics))
        after = CliRunner(catch_exceptions=False).invoke(main, collect)
        assert after.stdout == before.stdout
    of_labels, *of_patches = filled.process.run_code(UNTAG)
    assert {name: of_labels[name] for name in ("add", "remove", "checked")} == {"add": 1, "remove": 1, "checked": 1}
    assert of_patches == [{}, {}]


SUGGESTED = """
import json, fiftyone as fo
(name,) = [name for name in fo.list_datasets() if name != "fcos-digits"]
dataset = fo.load_dataset(name)
views = {view: dataset.load_saved_view(view) for view in dataset.list_saved_views()}
(first, second), boxes = dataset, []
if first.predictions.detections:
    boxes = [[d.label, d.confidence, d.bounding_box] for d in first.predictions.detections]
first.tags.append("done")
first.save()
print(json.dumps({"files": [s.filepath for s in dataset], "boxes": boxes, "folder": dataset.info["images"],
    "fields": [[s.rank, s.uncertainty, s.distance] for s in dataset], "none": len(second.predictions.detections),
    "views": {view: shown.values("rank") for view, shown in views.items()}, "tags": first.tags}))
"""


def test_suggested_images_have_a_dataset_of_their_own(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures, out = filled.project.root / "data/raw/digits/pictures", filled.project.root / "suggested"
    found = [
        SuggestedImage("11.png", 200, 100, 0.5, 0.25, (SuggestedBox("cat", 0.75, (50, 25, 100, 50)),)),
        SuggestedImage("12.png", 200, 100, 0.75, 0.125, ()),
    ]
    suggestion_files.write(pictures, found, out / "suggested.json")
    shown: list[dict[str, Any]] = []
    names: list[str] = []

    @contextmanager
    def serve(name: str, port: int, build: Callable[[], object]) -> Iterator[mock.Mock]:
        assert (re.sub("[0-9a-f]{8}$", "", name), port) == ("suggested-digits-", 5151)
        names.append(name)
        assert build() == 2
        shown.append(filled.process.run_code(SUGGESTED))
        yield mock.Mock(address="the address")

    monkeypatch.setattr(fiftyone, "serve", serve)
    for _ in range(2):
        result = CliRunner(catch_exceptions=False).invoke(main, ["app", "--suggested", "suggested"])
        assert (result.exit_code, result.stdout) == (0, "FiftyOne: the address  (Ctrl-C stops it)\n")
    expected = {
        "files": [f"{pictures}/11.png", f"{pictures}/12.png"], "boxes": [["cat", 0.75, [0.25, 0.25, 0.5, 0.5]]],
        "folder": str(pictures), "fields": [[1, 0.5, 0.25], [2, 0.75, 0.125]], "none": 0,
        "views": {"In order of labeling": [1, 2], "Most uncertain": [2, 1], "Most different": [1, 2]},
    }  # fmt: skip
    assert shown == [{**expected, "tags": ["done"]}, {**expected, "tags": ["done", "done"]}]  # the first one is kept
    shutil.copytree(out, out.with_name("copied"))
    served = nullcontext(mock.Mock(address=""))
    monkeypatch.setattr(fiftyone, "serve", lambda name, *_: names.append(name) or served)
    assert CliRunner().invoke(main, ["app", "--suggested", "copied"]).exit_code == 0
    assert names[0] == names[1] != names[2]  # tags of another folder stay
    result = CliRunner().invoke(main, ["app", "--suggested", "other"])
    assert result.stderr == (
        f"fcos: {filled.project.root}/other/suggested.json: not there; give the folder that `fcos suggest` has "
        "written, its --out\n"
    )


def test_the_app_stops_on_ctrl_c(filled: Filled, running_app: App) -> None:
    filled.process.close()  # else the database runs on
    children = descendants(running_app.process.pid)
    assert "uvicorn" in command_words(children)
    running_app.process.send_signal(signal.SIGINT)
    assert running_app.process.wait(60) == 0
    assert "Traceback" not in (running_app.process.stderr.read() if running_app.process.stderr else "")
    assert mongo.running_uri(running_app.root / ".fcos/mongo") is None
    assert_gone(children, seconds=0)


def test_tags_stay_on_images_and_on_labels_that_are_the_same() -> None:
    def sample(tags: list[str], label: str, box: list[float], label_tags: list[str]) -> dict[str, Any]:
        other = {"annotation_id": None, "label": "new", "bounding_box": [], "tags": ["mine"]}
        detection = {"annotation_id": 5, "label": label, "bounding_box": box, "tags": label_tags}
        return {"tags": tags, "ground_truth": {"detections": [other, detection]}}

    for label, box, kept in (("cat", [0, 0, 1, 1], ["remove"]), ("dog", [0, 0, 1, 1], []), ("cat", [0, 0, 1, 0.5], [])):
        new = sample([], label, box, [])
        del new["ground_truth"]["detections"][0]
        fiftyone_labels.keep_tags(new, sample(["exclude"], "cat", [0, 0, 1, 1], ["remove"]))
        assert (new["tags"], truth_of(new)[0]["tags"]) == (["exclude"], kept)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_all_processes_end_with_the_process_that_fills_the_dataset(inspected: Any, number: signal.Signals) -> None:
    """While it waits for its child process, which imports FiftyOne."""
    code = "from pipeline import params; from pipeline.integrations import fiftyone as f; "
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}f.refresh(f.dataset_spec(params.load()))"],
        cwd=inspected.root,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stderr=subprocess.PIPE,
    ) as stage:
        while "pipeline.integrations.fiftyone_dataset" not in command_words(descendants(stage.pid)):
            assert stage.poll() is None
            time.sleep(0.05)
        processes = descendants(stage.pid)
        assert "--dbpath" in command_words(processes)
        stage.send_signal(number)
        assert_gone(processes)


def assert_only_the_owner_gets_in(address: str) -> requests.Session:
    """Returns a session with the cookie."""
    page, _, token = address.partition("&token=")
    server = page.partition("/datasets")[0]
    assert all(token not in argument for process in psutil.process_iter() for argument in arguments(process))
    for path in ("/", "/fiftyone", "/events", "/media?filepath=/etc/hostname", "/datasets/fcos-digits", "/plugins/"):
        assert requests.get(server + path, timeout=10).status_code == 403
    for path, body in (("/graphql", {"query": "{ uid }"}), ("/operators", {}), ("/operators/execute", {})):
        assert requests.post(server + path, json=body, timeout=10).status_code == 403
    owner = requests.Session()
    opened = owner.get(address, timeout=10)
    assert (opened.status_code, opened.url, [item.status_code for item in opened.history]) == (200, page, [303])
    assert owner.get(f"{server}/fiftyone", timeout=10).json()["version"]
    answer = owner.post(f"{server}/graphql", json={"query": "{ doNotTrack }"}, timeout=10)
    assert answer.json()["data"] == {"doNotTrack": True}
    for host in ("attacker.example", "10.attacker.example", "127.0.0.1.attacker.example"):
        assert owner.get(f"{server}/fiftyone", headers={"Host": host}, timeout=10).status_code == 403
    return owner


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def assert_only_images_of_the_dataset_are_served(owner: requests.Session, media: str, root: Path) -> None:
    folder = root / "data/raw/digits/pictures"
    picture = folder / "11.png"
    answer = owner.get(media, params={"filepath": str(picture)}, timeout=10)
    assert (answer.status_code, answer.content) == (200, picture.read_bytes())
    assert owner.get(media, timeout=10).status_code == 400
    (folder / "link.png").symlink_to("/etc/hostname")
    for path in (
        "/etc/hostname",
        folder / "link.png",
        f"{folder}/../../../../params.yaml",
        root / "data/unified/val.json",
    ):
        answer = owner.get(media, params={"filepath": str(path)}, timeout=10)
        assert (answer.status_code, answer.text) == (403, "403: not an image of a dataset\n")


def test_which_paths_are_images_of_a_dataset(tmp_path: Path) -> None:
    folder, other = tmp_path / "data/raw/digits", tmp_path / "data/raw/other"
    cache = tmp_path / "cache/files/md5/ab" / ("0" * 30)  # as DVC names it, also outside of the project
    for file in (folder / "a/1.png", other / "2.png", cache):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"image")
    for name, target in {"in": "a/1.png", "cached": cache, "out": other / "2.png", "up": ".."}.items():
        (folder / name).symlink_to(target)
    (tmp_path / "digits").symlink_to(folder)
    served = {"a/1.png", "a/../a/1.png", "in", "cached", "missing.png"}
    refused = {"../other/2.png", "out", "up/other/2.png", "up/../../../etc/passwd", "a/1.png\0", "../digits2/1.png"}
    names = {name for name in served | refused if fiftyone_server.is_dataset_image(f"{folder}/{name}", [folder])}
    assert names == served
    # The folder itself may be a link; DVC's cache is reached through a data set alone.
    assert fiftyone_server.is_dataset_image(f"{tmp_path}/digits/a/1.png", [tmp_path / "digits"])
    for path in (str(cache), "a/1.png", "", str(tmp_path)):
        assert not fiftyone_server.is_dataset_image(path, [folder])
    assert not fiftyone_server.is_dataset_image(f"{folder}/a/1.png", [])
