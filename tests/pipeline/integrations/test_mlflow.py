"""MLflow's store, as the stages write it and the REST interface of `fcos ui` returns it."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import requests
from click.testing import CliRunner

from pipeline import params
from pipeline.cli import main
from pipeline.errors import PipelineError
from pipeline.integrations import mlflow, servers
from pipeline.params import Params
from tests.support.listening import loopback_only
from tests.support.process_trees import assert_gone, descendants
from tests.support.projects import start_python

WEIGHTS, PREDICTIONS = "a" * 64, "b" * 64

pytestmark = pytest.mark.usefixtures("inspected")


def runs() -> list[Any]:
    """All runs in the store, the oldest first."""
    store = mlflow.Store.open()
    return list(store.client.search_runs([store.experiment], order_by=["attributes.start_time ASC"]))


@contextmanager
def run_fcos(*arguments: str, folder: Path) -> Iterator["subprocess.Popen[str]"]:
    process = start_python(
        f"from pipeline.cli import main; main({list(arguments)!r})", folder=folder, python=[sys.executable]
    )
    with process, loopback_only():
        try:
            yield process
        finally:
            process.kill()


def query(owner: requests.Session, address: str, path: str, body: dict[str, Any]) -> Any:
    answer = owner.post(f"{address}/api/2.0/mlflow/{path}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


def test_the_ui_shows_one_run_for_three_stages(inspected: Any) -> None:
    values = params.load()
    plot = inspected.root / "plots/train"
    plot.mkdir(parents=True)
    (plot / "loss.csv").write_text("step,loss\n1,2\n")
    with mlflow.train_run(values, key="k") as run:
        run.log_steps([{"step": step, "loss/total": 10.0 / step, "lr": 0.1} for step in range(1, 1201)])
        run.log_artifacts(plot)
        run.mark_finished(WEIGHTS)
    with mlflow.evaluate_run(values, WEIGHTS) as run:
        run.log_metrics({"coco/AP": 0.5, "coco/AP50": 0.75})
        run.mark_finished(PREDICTIONS)
    with mlflow.inspect_run(values, PREDICTIONS) as run:
        run.log_metrics({"inspect/errors/missed": 3})
        run.mark_finished("c" * 64)
    port = servers.find_free_port()
    with run_fcos("ui", "--port", str(port), folder=inspected.root) as page:
        assert page.stdout is not None
        printed = page.stdout.readline()
        address = f"http://127.0.0.1:{port}"
        page_of_runs = "#/experiments/1/runs?viewStateShareKey=fcos&compareRunsMode=TABLE&workflowType=machine_learning"
        match = re.fullmatch(rf"MLflow: {address}/\?token=([\w-]{{43}})(#.*)  \(Ctrl-C stops it\)\n", printed)
        assert match is not None
        assert match[2] == page_of_runs
        owner = assert_only_the_owner_gets_in(address, printed.split()[1])
        experiment = query(owner, address, "experiments/search", {"max_results": 10, "filter": "name = 'fcos'"})[
            "experiments"
        ]
        assert [item["name"] for item in experiment] == ["fcos"]
        stored = query(owner, address, "runs/search", {"experiment_ids": [experiment[0]["experiment_id"]]})["runs"]
        assert len(stored) == 1
        assert_the_run_has_the_results(stored[0], values)
        assert_a_client_needs_the_token(values, address, printed)
        columns = {"Run Name", "coco/AP", "coco/AP50", "loss", "seed", "Dataset", "Source", "Version", "Models"}
        assert columns <= table_headers(printed.split()[1])
        assert_only_artifacts_are_served(owner, address, stored[0]["info"]["run_id"], plot / "loss.csv")
        second = CliRunner().invoke(main, ["ui", "--port", str(port)])
        assert second.exit_code == 1
        assert second.stderr.startswith(f"fcos: 127.0.0.1:{port}: address already in use")
        assert second.stderr.count("\n") == 1
        page.send_signal(signal.SIGINT)
        assert page.wait(30) == 0
        assert "Traceback" not in (page.stderr.read() if page.stderr else "")
    servers.require_free_port(port)
    assert (inspected.root / "mlartifacts").is_dir()
    with closing(sqlite3.connect(inspected.root / "mlflow.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def assert_the_run_has_the_results(stored: dict[str, Any], values: Params) -> None:
    info, data = stored["info"], stored["data"]
    assert (info["status"], info["run_name"]) == ("FINISHED", "digits-tiny-iou")
    logged = {item["key"]: item["value"] for item in data["params"]}
    assert logged == {name: str(value) for name, value in values.flat().items() if not name.startswith("machine.")}
    metrics = {item["key"]: (item["value"], item["step"]) for item in data["metrics"]}
    assert metrics["loss/total"] == (pytest.approx(10 / 1200), 1200)
    assert metrics["coco/AP"] == (0.5, 0)
    assert metrics["inspect/errors/missed"] == (3, 0)
    tags = {item["key"]: item["value"] for item in data["tags"]}
    assert (tags["weights"], tags["predictions"], tags["dataset"], tags["loss"]) == (
        WEIGHTS, PREDICTIONS, "digits", "iou",
    )  # fmt: skip


def assert_a_client_needs_the_token(values: Params, address: str, printed: str) -> None:
    """`MLFLOW_TRACKING_TOKEN` is what MLflow's own clients send. Without it, the line says what to set."""
    server = {"MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    with mock.patch.dict(os.environ, server), redirect_stderr(StringIO()) as errors:
        with mlflow.inspect_run(values, PREDICTIONS) as run:
            run.log_metrics({"inspect/errors/missed": 4})
            run.mark_finished("d" * 64)
        assert "credentials: set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and" in errors.getvalue()
        os.environ["MLFLOW_TRACKING_TOKEN"] = re.split("[=#]", printed)[1]
        assert CliRunner().invoke(main, ["sync"]).output == "MLflow: sent 1 stage\n"
    assert [run.data.metrics.get("inspect/errors/missed") for run in runs()] == [3, 4]


def table_headers(address: str) -> set[str]:
    """Opens the page, and returns the headers of the table that it shows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        page = browser.new_page(viewport={"width": 2000, "height": 700})
        page.goto(address)
        page.wait_for_selector("[role=columnheader] >> text=coco/AP50", timeout=120_000)
        headers = {header.inner_text().strip() for header in page.locator("[role=columnheader]").all()}
        browser.close()
    return headers


@pytest.mark.usefixtures("values")
def test_the_server_ends_with_fcos_ui(inspected: Any) -> None:
    """Ctrl-C is in the test above; test_servers.py sends every signal."""
    with run_fcos("ui", "--port", str(servers.find_free_port()), folder=inspected.root) as page:
        assert page.stdout is not None
        assert page.stdout.readline().startswith("MLflow: http://127.0.0.1:")
        processes = descendants(page.pid)
        assert len(processes) >= 2
        page.kill()
        assert_gone(processes)


def assert_only_the_owner_gets_in(address: str, printed: str) -> requests.Session:
    """Returns a session with the cookie."""
    for path in ("/", "/health", "/version", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=fcos"):
        assert requests.get(address + path, timeout=30).status_code == 403
    assert requests.post(f"{address}/api/2.0/mlflow/experiments/search", json={}, timeout=30).status_code == 403
    owner = requests.Session()
    opened = owner.get(printed, timeout=30)
    assert (opened.status_code, opened.url.partition("#")[0]) == (200, f"{address}/")
    assert "MLflow" in opened.text
    for host in ("attacker.example", "10.attacker.example", "192.168.attacker.example", "127.0.0.1.attacker.example"):
        assert owner.get(f"{address}/health", headers={"Host": host}, timeout=30).status_code == 403
    # MLflow's own clients send MLFLOW_TRACKING_TOKEN so.
    token = {"Authorization": f"Bearer {printed.partition('=')[2].partition('#')[0]}"}
    assert requests.get(f"{address}/health", headers=token, timeout=30).text == "OK"
    return owner


def assert_only_artifacts_are_served(owner: requests.Session, address: str, run: str, other: Path) -> None:
    """The artifacts of this run, and no other file, also if a client chooses another folder for an experiment."""

    def get(path: str, run: str) -> requests.Response:
        return owner.get(f"{address}/get-artifact", params={"path": path, "run_uuid": run}, timeout=30)

    assert get("train/loss.csv", run).content == other.read_bytes() == b"step,loss\n1,2\n"
    (other.parents[2] / "mlartifacts" / run / "artifacts/link").symlink_to("/etc")
    for path in (
        "../../../params.yaml", "/etc/hostname", "%2e%2e/%2e%2e/params.yaml", "file:///etc/hostname", "link/hostname",
    ):  # fmt: skip
        assert get(path, run).status_code == 400
    for number, location in enumerate((str(other.parent), other.parent.as_uri())):
        body = {"name": f"other-{number}", "artifact_location": location}
        experiment = query(owner, address, "experiments/create", body)["experiment_id"]
        created = query(owner, address, "runs/create", {"experiment_id": experiment})["run"]["info"]
        folder = other.parent / created["run_id"] / "artifacts"
        assert created["artifact_uri"].removeprefix("file://") == str(folder)
        folder.mkdir(parents=True)
        (folder / "loss.csv").write_text("private")
        answers = [
            get("loss.csv", created["run_id"]),
            owner.get(f"{address}/api/2.0/mlflow/artifacts/list", params={"run_id": created["run_id"]}, timeout=30),
        ]
        assert [(answer.status_code, answer.json()["error_code"]) for answer in answers] == [
            (403, "PERMISSION_DENIED")
        ] * 2


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_failed_training_is_marked_and_its_error_propagates(
    values: Params, error: type[BaseException], status: str
) -> None:
    with pytest.raises(error), mlflow.train_run(values, key="k"):
        raise error
    assert [run.info.status for run in runs()] == [status]


def test_a_killed_training_resumes_the_run_with_its_key(values: Params, inspected: Any) -> None:
    code = """import os, signal
from pipeline import params
from pipeline.integrations import mlflow
with mlflow.train_run(params.load(), key="mine") as run:
    run.log_steps([{"step": 1, "loss/total": 3.0}])
    os.kill(os.getpid(), signal.SIGKILL)"""
    with start_python(code, folder=inspected.root) as process:
        assert process.wait(60) == -signal.SIGKILL
    with mlflow.train_run(values, key="another"):  # sends what the killed process could not
        pass
    assert [run.info.status for run in runs()] == ["KILLED", "FINISHED"]
    with mlflow.train_run(values, key="mine") as run:
        run.log_steps([{"step": 2, "loss/total": 2.0}])
        run.mark_finished(WEIGHTS)
    first, second = runs()
    assert (first.data.tags["key"], first.info.status) == ("mine", "FINISHED")
    assert second.data.tags["key"] == "another"
    history = mlflow.Store.open().client.get_metric_history(first.info.run_id, "loss/total")
    assert [(point.step, point.value) for point in history] == [(1, 3.0), (2, 2.0)]
    with mlflow.train_run(values, key="mine") as run:  # finished: a new training is a new run
        run.mark_finished(WEIGHTS)
    assert len(runs()) == 3


def test_a_finished_run_is_resumed_with_its_training(values: Params) -> None:
    """A stage can fail after its training finished, since an input changed, and then repeat from the saved state."""
    with mlflow.train_run(values, key="mine") as run:
        run.log_steps([{"step": 1, "loss/total": 3.0}])
        run.mark_finished(WEIGHTS)
    with mlflow.train_run(values, key="mine", resumed=True) as run:
        run.mark_finished(WEIGHTS)
    (run,) = runs()
    metrics = {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}
    assert (run.info.status, metrics) == ("FINISHED", {"loss/total": 3.0})


def test_a_training_names_the_run_whose_weights_it_starts_from(values: Params) -> None:
    with mlflow.train_run(values, key="first") as run:
        run.mark_finished(WEIGHTS)
    for weights in ("f" * 64, WEIGHTS):
        with mlflow.train_run(values, key=weights[:8], origin=mlflow.Origin("extended_from", "Trains longer", weights)):
            pass
    tags = {run.data.tags["key"]: run.data.tags for run in runs()}
    first = next(run for run in runs() if run.data.tags["key"] == "first")
    assert "extended_from" not in tags["f" * 8]
    assert tags[WEIGHTS[:8]]["extended_from"] == first.info.run_id
    assert tags[WEIGHTS[:8]]["mlflow.note.content"].startswith(f"Trains longer [{first.info.run_name}](")


def train_and_evaluate(values: Params, ap: float) -> None:
    with mlflow.train_run(values, key="k") as run:
        run.mark_finished(WEIGHTS)
    with mlflow.evaluate_run(values, WEIGHTS) as run:
        run.log_metrics({"coco/AP": ap})
        run.mark_finished(PREDICTIONS)


def test_evaluating_cached_weights_creates_a_new_run(values: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    train_and_evaluate(values, 0.5)
    monkeypatch.setenv("DVC_EXP_NAME", "other-nms")
    with mlflow.evaluate_run(values, WEIGHTS) as run:
        run.log_metrics({"coco/AP": 0.4})
        run.mark_finished("d" * 64)
    first, second = runs()
    assert (first.data.metrics["coco/AP"], second.data.metrics["coco/AP"]) == (0.5, 0.4)
    assert second.data.tags["trained_by"] == first.info.run_id
    assert second.info.run_name == second.data.tags["dvc_experiment"] == "other-nms"
    assert second.data.params == {
        name: str(value) for name, value in values.flat().items() if not name.startswith("machine.")
    }
    with mlflow.inspect_run(values, "d" * 64) as run:
        run.mark_finished("e")
    assert [("inspected" in run.data.tags) for run in runs()] == [False, True]


def test_a_second_inspection_names_the_run_that_evaluated(values: Params) -> None:
    train_and_evaluate(values, 0.5)
    for digest in ("e", "f"):
        with mlflow.inspect_run(values, PREDICTIONS) as run:
            run.mark_finished(digest)
    first, second = runs()
    assert first.data.tags["inspected"] == "e"
    assert (second.data.tags["inspected"], second.data.tags["evaluated_by"]) == ("f", first.info.run_id)


def test_unknown_weights_get_a_run_without_a_training(values: Params) -> None:
    with mlflow.evaluate_run(values, "0" * 64) as run:
        run.mark_finished("1" * 64)
    assert "trained_by" not in runs()[0].data.tags


def test_a_repeated_evaluation_reuses_the_run_that_failed(values: Params) -> None:
    with mlflow.train_run(values, key="k") as run:
        run.mark_finished(WEIGHTS)
    with pytest.raises(ZeroDivisionError), mlflow.evaluate_run(values, WEIGHTS):
        raise ZeroDivisionError
    with mlflow.evaluate_run(values, WEIGHTS) as run:
        run.mark_finished(PREDICTIONS)
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_the_revision_is_that_of_git_or_the_baseline_of_the_experiment(
    values: Params, inspected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        return subprocess.run(
            ["git", *author, *arguments], cwd=inspected.root, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q")
    git("add", "params.yaml", "dvc.yaml")
    git("commit", "-qm", "Begin")
    with mlflow.train_run(values, key="1"):
        pass
    (inspected.root / "params.yaml").write_text((inspected.root / "params.yaml").read_text() + "# later\n")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "0123")
    with mlflow.train_run(values, key="2"):
        pass
    first, second = (run.data.tags for run in runs())
    assert (first["git_revision"], first["git_dirty"]) == (git("rev-parse", "HEAD"), "false")
    assert (second["git_revision"], second["git_dirty"], second["dvc_baseline"]) == ("0123", "true", "0123")


def test_a_temporary_workspace_writes_into_the_main_store(
    inspected: Any, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = params.load()
    clone = tmp_path_factory.mktemp("clone")
    (clone / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.setenv("DVC_ROOT", str(inspected.root))
    monkeypatch.chdir(clone)
    with mlflow.train_run(values, key="k") as run:
        run.mark_finished(WEIGHTS)
    assert (inspected.root / "mlflow.db").is_file()
    assert sorted(path.name for path in clone.iterdir()) == ["dvc.yaml"]


def test_a_logging_error_gives_one_line_after_the_training(values: Params, capsys: pytest.CaptureFixture[str]) -> None:
    def train() -> None:
        with mlflow.train_run(values, key="k") as run:
            run.log_metrics({"bad*name": 1})
            run.log_metrics({"bad*name": 2})
            run.mark_finished(WEIGHTS)

    with pytest.raises(PipelineError, match=r"metrics: .*bad\*name") as caught:
        train()
    assert "\n" not in str(caught.value)
    assert capsys.readouterr().err.count("continuing without it") == 1
    assert runs()[0].data.tags["weights"] == WEIGHTS


def test_names_of_experiments_are_in_no_filter(values: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["o'brien", 'say "hi"', "a` or `b", "' or tags.x != '", "100%", "naïve \\"]
    for name in names:
        monkeypatch.setenv("DVC_EXP_NAME", name)
        with mlflow.train_run(values, key=f"key of {name}") as run:
            run.mark_finished(WEIGHTS)
        with mlflow.evaluate_run(values, WEIGHTS) as evaluated:
            evaluated.mark_finished(PREDICTIONS)
        with mlflow.inspect_run(values, PREDICTIONS) as inspected:
            inspected.mark_finished("c")
        assert {evaluated.id, inspected.id} == {run.id}
    assert [run.info.run_name for run in runs()] == names


def test_an_experiment_deleted_in_the_ui_is_restored(values: Params) -> None:
    store = mlflow.Store.open()
    store.client.delete_experiment(store.experiment)
    with mlflow.train_run(values, key="k"):
        pass
    assert len(runs()) == 1
