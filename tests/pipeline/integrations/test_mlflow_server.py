"""A person's own MLflow server, on SQLite and PostgreSQL: it has what the own store has, also if it was down.

Every test talks to `mlflow server` through its REST interface.
"""

import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from click.testing import CliRunner

from fcos.config import InputSize
from fcos.detector import build
from fcos.weights import Description, save_detector
from pipeline import params
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.files import digest, write_json, write_text
from pipeline.inference.postprocess import make_postprocess
from pipeline.inference.saved_detector import SavedDetector
from pipeline.inference.views import Views
from pipeline.integrations import mlflow, mlflow_queue, mlflow_sender, mlflow_store, servers
from pipeline.integrations.mlflow_store import Store
from pipeline.params import Params
from pipeline.prediction.detector import ConfiguredDetector
from pipeline.prediction.images import predict_image
from pipeline.prediction.records import to_record
from tests.support.empty_store import copy_store
from tests.support.inspected_project import CAT, DOG, SCENE

SCORE = 0.75  # of the operating point
VAL = replace(SCENE, annotations=SCENE.annotations[:4])


@pytest.fixture
def values(inspected: Any, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The parameters of a project with an evaluated detector."""
    monkeypatch.setattr(mlflow_sender, "RETRY_SECONDS", 0.2)
    root: Path = inspected.root
    copy_store(empty_store, root / "mlflow.db")
    values = params.load()
    torch.manual_seed(0)
    config = replace(values.model, pretrained=False)
    detector = build(config, 2)
    torch.nn.init.normal_(detector.head.class_logits.weight, std=0.5)  # varied scores
    torch.nn.init.zeros_(detector.head.class_logits.bias)
    description = Description(model=config, categories=((CAT, "cat"), (DOG, "dog")), input_size=InputSize((64, 128)))
    save_detector(detector, description, root / "models/detector.safetensors")
    point = {"score": SCORE, "precision": 0.5, "recall": 0.25, "f1": 1 / 3}
    chosen_for = {"weights": digest(root / "models/detector.safetensors"), "split": "val", "iou_threshold": 0.5}
    points = {"confirmed": False, "all": point, "classes": {"cat": point, "dog": None}}
    write_json(root / "predictions/operating_point.json", chosen_for | points)
    metrics = {
        "coco": {"AP": 0.5, "AP50": 0.75},
        "intervals": {"AP": {"low": 0.4, "high": 0.6}, "AP50": {"low": None, "high": None}},
    }
    write_text(root / "reports/model_card.md", f"weights: {chosen_for['weights']}")
    write_json(root / "metrics/evaluate.json", metrics | {"operating_point": point, "images": 5, "objects": 6})
    return values


def log_experiment(values: Params, root: Path) -> None:
    """What the three stages log, with small values."""
    weights = root / "models/detector.safetensors"
    example = io.BytesIO()
    PIL.Image.new("RGB", (200, 100), (40, 90, 120)).save(example, "JPEG")
    with mlflow.train_run(values, key="0123") as run:
        run.log_datasets(training=SCENE, validation=VAL)
        run.log_steps([{"step": step, "train/total": 4.0 / step} for step in (1, 2)])
        run.log_metrics({"val/AP": 0.25, "epoch": 1.0}, step=2)
        run.log_predictions([PIL.Image.new("RGB", (400, 200))], epoch=1)
        run.log_checkpoints({"last": weights}, {"last": {"epoch": 1.0, "step": 2.0, "AP": 0.25}}, example.getvalue())
        run.log_artifacts(root / "params.yaml")
        run.mark_finished(digest(weights))
    with mlflow.evaluate_run(values, digest(weights)) as run:
        run.log_evaluation({"coco/AP": 0.5, "per_class/AP/cat": 0.625}, digest(weights), "val", VAL)
        run.mark_finished(digest(root / "predictions/val.json"))
    with mlflow.inspect_run(values, digest(root / "predictions/val.json")) as run:
        run.log_metrics({"inspect/errors/missed": 3})
        run.mark_finished("c")


def contents(store: Store) -> dict[str, Any]:
    """What a store has of its only run, without ids, times and what differs between two machines."""
    client = store.client
    (run,) = client.search_runs([store.experiment], "tags.key = '0123'")
    (model,) = client.search_logged_models([store.experiment], "tags.weights = '" + run.data.tags["weights"] + "'")
    images = [
        re.sub(r"timestamp\+\d+\+[\w-]+", "", item.path) for item in client.list_artifacts(run.info.run_id, "images")
    ]
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "params": run.data.params,
        "tags": {name: value for name, value in run.data.tags.items() if name != "queue_entry"},
        "metrics": {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")},
        "steps": [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, "train/total")],
        "validations": len(client.get_metric_history(run.info.run_id, "val/AP")),
        "datasets": [(item.dataset, [tag.value for tag in item.tags]) for item in run.inputs.dataset_inputs],
        "outputs": [(item.model_id == model.model_id, item.step) for item in run.outputs.model_outputs],
        "artifacts": sorted(item.path for item in client.list_artifacts(run.info.run_id)),
        "images": sorted(images),
        "model": (model.name, model.status, model.model_type, model.params, model.tags),
        "model metrics": sorted(
            (item.key, item.value, item.dataset_name, item.dataset_digest) for item in model.metrics
        ),
        "experiment": client.get_experiment(store.experiment).tags,
    }


@pytest.fixture(scope="module")
def local_contents() -> dict[str, Any]:
    """What the project's own store has of the experiment, once a test has filled it."""
    return {}


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_server_has_what_the_own_store_has(
    values: Params,
    inspected: Any,
    monkeypatch: pytest.MonkeyPatch,
    mlflow_server: Callable[[str], str],
    local_contents: dict[str, Any],
    database: str,
) -> None:
    if not local_contents:
        log_experiment(values, inspected.root)
        local_contents.update(contents(Store.open()))
    address = mlflow_server(database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{address}/")
    log_experiment(values, inspected.root)
    store = Store.open(address)
    remote = contents(store)
    assert {name: str(value) for name, value in remote.items()} == {
        name: str(value) for name, value in local_contents.items()
    }
    assert remote["status"] == "FINISHED"
    assert remote["metrics"] == {
        "train/total": 2.0, "val/AP": 0.25, "epoch": 1.0, "coco/AP": 0.5, "per_class/AP/cat": 0.625,
        "inspect/errors/missed": 3.0,
    }  # fmt: skip
    assert remote["steps"] == [(1, 4.0), (2, 2.0)]
    assert remote["validations"] == 1  # although the metric is linked to the model, too
    hash_of_data = mlflow.dvc_hash(inspected.root / "data/unified")
    assert [(item.name, item.digest, json.loads(item.profile), tags) for item, tags in remote["datasets"]] == [
        ("digits/train", hash_of_data, {"images": 5, "objects": 5, "crowds": 1, "classes": 2}, ["training"]),
        ("digits/val", hash_of_data, {"images": 5, "objects": 4, "crowds": 0, "classes": 2}, ["validation"]),
    ]
    assert remote["outputs"] == [(True, 2)]
    assert [item[:3] for item in remote["model metrics"]] == [
        ("coco/AP", 0.5, "digits/val"), ("per_class/AP/cat", 0.625, "digits/val"), ("val/AP", 0.25, "digits/val"),
    ]  # fmt: skip
    assert remote["images"] == ["images/predictions~1+step+1++compressed.webp", "images/predictions~1+step+1+.png"]
    assert remote["experiment"]["mlflow.experimentKind"] == "custom_model_development"
    assert mlflow_queue.entries() == []
    assert_the_alias_moves(store)
    if database == "sqlite":
        assert_the_champion_detects(values, inspected.root, store, address)


def assert_the_alias_moves(store: Store) -> None:
    """`fcos register` makes a version with the alias; a second one takes it."""
    for version in ("1", "2"):
        response = CliRunner().invoke(main, ["register", "--name", "cats"])
        assert response.output == f"cats, version {version}: models:/cats@champion loads it\n"
        assert store.client.get_model_version_by_alias("cats", "champion").version == version


def assert_the_champion_detects(values: Params, root: Path, store: Store, address: str) -> None:
    """MLflow loads the registered model, and it detects at the operating point. Metrics and data are described."""
    import mlflow as library

    champion = store.client.get_model_version_by_alias("cats", "champion")
    description = champion.description
    for part in ("| AP | 0.500 | 0.400 to 0.600 |", "| AP50 | 0.750 | – to – |", mlflow.dvc_hash(root / "data/unified"),
                 "digits/val: 5 images, 6 objects", digest(root / "models/detector.safetensors")):  # fmt: skip
        assert part in description
    model = store.client.get_logged_model(champion.source.removeprefix("models:/"))
    assert {item.key: item.value for item in model.metrics} == {"coco/AP": 0.5, "val/AP": 0.25}
    library.set_tracking_uri(address)
    library.set_registry_uri(address)
    loaded = library.pyfunc.load_model("models:/cats@champion")
    folder = Path(loaded._model_impl.context.artifacts["weights"]).parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "detector.json", "detector.safetensors", "model_card.md", "operating_point.json", "postprocess.json",
    ]  # fmt: skip
    assert not [path for path in folder.parent.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]
    image = root / "data/raw/digits/pictures/11.png"
    detector = SavedDetector.load(root / "models/detector.safetensors", torch.device("cpu"))
    configured = ConfiguredDetector(detector, [SCORE, SCORE], make_postprocess(values.postprocess), Views())
    _, prediction = predict_image(configured, image)
    expected = to_record(prediction, detector.description.categories)
    import pandas as pd

    found = loaded.predict(pd.DataFrame({"image": [image.read_bytes()]}))["detections"][0]
    assert found == expected["detections"]
    everything = loaded.predict(pd.DataFrame({"image": [image.read_bytes()]}), params={"score": 0.0})["detections"][0]
    assert min(item["score"] for item in found) >= SCORE > min(item["score"] for item in everything)


class Gate:
    """A loopback port that forwards to a server while it is open; it is refused, or never answered, otherwise."""

    def __init__(self, target: str) -> None:
        self.target, self.port = int(target.rsplit(":", 1)[1]), servers.find_free_port()
        self.address = f"http://127.0.0.1:{self.port}"

    @contextmanager
    def open(self, *, answers: bool = True) -> Iterator[None]:
        with socket.create_server(("127.0.0.1", self.port)) as listener:
            threading.Thread(target=self._accept, args=(listener, answers), daemon=True).start()
            yield
            listener.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket, answers: bool) -> None:
        with ExitStack() as unanswered:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                if not answers:
                    unanswered.enter_context(client)
                    continue
                server = socket.create_connection(("127.0.0.1", self.target))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with source, sink, suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)


@pytest.fixture
def gate(mlflow_server: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(mlflow_server("sqlite"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", gate.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    return gate


def runs_of(store: Store, key: str) -> list[Any]:
    return list(store.client.search_runs([store.experiment], f"tags.key = '{key}'"))


def test_what_a_server_that_is_down_missed_is_kept_and_sent_later(
    values: Params, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    with mlflow.train_run(values, key="down") as run:
        run.log_steps([{"step": 1, "train/total": 3.0}])
        run.mark_finished("d" * 64)
    line = f"{gate.address}: MLflow: opening the store: connection refused"
    errors = capsys.readouterr().err
    assert f"{line}; it is kept in .fcos/mlflow, and the next stage or `fcos sync` sends it\n" in errors
    assert len(mlflow_queue.entries()) == 1
    response = CliRunner().invoke(main, ["sync"])
    assert (response.exit_code, response.stderr) == (1, f"fcos: {line}\n")
    with gate.open():
        response = CliRunner().invoke(main, ["sync"])
        assert (response.exit_code, response.output) == (0, "MLflow: sent 1 stage\n")
        (sent,) = runs_of(Store.open(gate.address), "down")
        assert CliRunner().invoke(main, ["sync"]).output == "MLflow: nothing to send\n"
    assert (sent.info.status, sent.data.metrics["train/total"], sent.data.tags["weights"]) == (
        "FINISHED",
        3.0,
        "d" * 64,
    )
    assert sent.info.end_time - sent.info.start_time < 30_000  # of the training, not of the sending
    assert mlflow_queue.entries() == []


def test_the_next_stage_sends_what_waits_and_continues_its_run(
    values: Params, gate: Gate, capsys: pytest.CaptureFixture[str]
) -> None:
    with mlflow.train_run(values, key="next") as run:
        run.mark_finished("e" * 64)
    with gate.open():
        with mlflow.evaluate_run(values, "e" * 64) as evaluated:
            evaluated.log_metrics({"coco/AP": 0.125})
            evaluated.mark_finished("f" * 64)
        (sent,) = runs_of(Store.open(gate.address), "next")
    assert (sent.info.run_id, sent.data.metrics["coco/AP"]) == (evaluated.id, 0.125)
    assert capsys.readouterr().err.count("is kept in .fcos/mlflow") == 1


def test_a_slow_server_holds_up_no_stage(
    values: Params, gate: Gate, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_sender, "END_SECONDS", 0.5)
    with gate.open(answers=False):
        with mlflow.train_run(values, key="slow") as run:
            run.mark_finished("0" * 64)
        assert f"{gate.address}: not everything was sent in 0.5 seconds; it is kept" in capsys.readouterr().err
        assert [entry.destination for entry in mlflow_queue.entries()] == [gate.address]
        run.sender._thread.join(30)


def test_what_waits_for_another_server_is_named(values: Params, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    with mlflow.train_run(values, key="elsewhere"):
        pass
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    response = CliRunner().invoke(main, ["sync"])
    assert response.output == (
        "MLflow: nothing to send\n"
        f"MLflow: more waits for another place: set MLFLOW_TRACKING_URI to {gate.address}, and run `fcos sync` again\n"
    )


def test_an_operation_that_is_sent_twice_changes_nothing(
    values: Params, inspected: Any, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender may be killed after MLflow has received an operation and before that is noted."""
    monkeypatch.setattr(mlflow_queue.Entry, "mark_sent", lambda *_: None)
    weights = inspected.root / "models/detector.safetensors"
    with gate.open():
        with mlflow.train_run(values, key="twice") as run:
            run.log_datasets(training=SCENE, validation=VAL)
            run.log_metrics({"val/AP": 0.25}, step=2)
            run.log_checkpoints({"last": weights}, {"last": {"epoch": 1.0, "step": 2.0, "AP": 0.25}}, b"")
            run.sender._send()  # and again at the end
        store = Store.open(gate.address)
        (sent,) = runs_of(store, "twice")
        assert len(store.client.get_metric_history(run.id, "val/AP")) == 1
    assert (len(sent.inputs.dataset_inputs), len(sent.outputs.model_outputs)) == (2, 1)


@pytest.mark.usefixtures("values")
def test_the_page_of_a_server_is_printed(gate: Gate) -> None:
    with gate.open():
        store = Store.open(gate.address)
        response = CliRunner().invoke(main, ["ui"])
    page = f"{gate.address}/#/experiments/{store.experiment}/runs?viewStateShareKey=fcos&compareRunsMode=TABLE"
    assert response.output == f"MLflow: {page}&workflowType=machine_learning\n"


def test_another_kind_of_address_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    with pytest.raises(PipelineError, match="MLFLOW_TRACKING_URI: only the http:// or https:// address of a server"):
        mlflow_store.destination()
