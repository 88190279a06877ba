"""What MLflow remembers of an experiment: one run over train, evaluate and inspect. The only importer of mlflow.

One store under the main repository's root serves `dvc repro`, `dvc exp run` and its temporary workspaces. A
stage finds the run to continue by the digest of the file it works on, never by an id in a stage's output: equal
weights would differ.
"""

import logging
import os
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.errors import PipelineError
from pipeline.integrations import servers
from pipeline.params import Params
from pipeline.workspace import root, state_dir, workspace

EXPERIMENT = "fcos"
EVALUATE = ("evaluate.", "postprocess.")  # sections that the evaluate stage adds
LATER_STAGES = (*EVALUATE, "inspect.")  # sections that training does not depend on
MACHINE = (
    "machine."  # may change when an interrupted training continues: tags, since MLflow refuses to change a parameter
)
BATCH = 1000  # metrics that MLflow takes in one call
PARAMS_BATCH = 100
# Without the job runner: two processes instead of fifteen.
UI_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"} | {
    "PYTHONWARNINGS": "ignore"
}


@dataclass
class Run:
    """One MLflow run, open. What can't be logged is told at the end: it must not end hours of training."""

    store: "Store"
    id: str
    done_tag: str
    problems: list[str] = field(default_factory=list)

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Logs many steps' metrics at once. Each row has "step"; its other keys are metrics: `loss/total`."""
        points = [
            (name, value, int(row["step"])) for row in rows for name, value in row.items() if name != "step"
        ]  # fmt: skip
        with self._noted("metrics"):
            self.store.log_metrics(self.id, points)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        self.log_steps([{**values, "step": step}])

    def log_artifacts(self, *paths: Path) -> None:
        """Copies files, and folders with all they hold, under their own names."""
        for path in paths:
            with self._noted(path.name):
                self.store.log_artifact(self.id, path)

    def mark_finished(self, digest: str) -> None:
        """Marks the stage's work as done: the next stage finds the run by this digest of its result."""
        with self._noted(f"tag {self.done_tag}"):
            self.store.set_tags(self.id, {self.done_tag: digest})

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        try:
            with _one_line(what):
                yield
        except PipelineError as error:
            if not self.problems:
                print(f"{error}; going on without", file=sys.stderr, flush=True)  # noqa: T201
            self.problems.append(str(error))


@contextmanager
def train_run(params: Params, *, key: str, resumed: bool = False) -> Iterator[Run]:
    """Opens a run, or continues the interrupted run with the same key.

    Args:
        key: identifies everything that determines the training, as the key of its resumable state does.
        resumed: whether the training continues from a saved state. Then a finished run is continued too: its stage
            failed afterwards, because an input had changed.

    Raises:
        PipelineError: the store can't be opened; or, after the body, something could not be logged.
    """
    with _one_line("opening the store"):
        store = Store.open()
        values = {name: value for name, value in _experiment(params).items() if not name.startswith(LATER_STAGES)}
        machine = {name: str(value) for name, value in params.flat().items() if name.startswith(MACHINE)}
        tags = {**_tags(params), **machine, "key": key}
        found = store.find_run({"key": key}, without=None if resumed else "weights", params=values)
        run = store.open_run(found, values, tags, _name(params))
    with _open(Run(store, run, "weights")) as opened:
        yield opened


@contextmanager
def evaluate_run(params: Params, weights: str) -> Iterator[Run]:
    """Continues the run that trained the weights with this digest, where that wasn't evaluated yet.

    Where training came from DVC's cache, another experiment's numbers would be overwritten there: a run of its
    own then names the training one in its tag `trained_by`.

    Raises:
        PipelineError: as for `train`.
    """
    with _later_stage_run(params, EVALUATE, ("weights", weights), "predictions", "trained_by") as run:
        yield run


@contextmanager
def inspect_run(params: Params, predictions: str) -> Iterator[Run]:
    """Continues the run that made the predictions with this digest; else, a run of its own names it: `evaluated_by`.

    Raises:
        PipelineError: as for `train`.
    """
    with _later_stage_run(params, ("inspect.",), ("predictions", predictions), "inspected", "evaluated_by") as run:
        yield run


@contextmanager
def _later_stage_run(
    params: Params, sections: tuple[str, ...], done: tuple[str, str], then: str, origin: str
) -> Iterator[Run]:
    with _one_line("opening the store"):
        store, flat, tags = Store.open(), _experiment(params), _tags(params)
        mine = {name: value for name, value in flat.items() if name.startswith(sections)}
        same = {"dvc_experiment": tags["dvc_experiment"]}
        found = store.find_run({done[0]: done[1], **same}, without=then, params=mine)
        if found is None:
            maker = store.find_run({done[0]: done[1]}, without=origin)
            tags |= {done[0]: done[1]} | ({origin: maker} if maker else {})
            mine = flat
        run = store.open_run(found, mine, tags if found is None else {}, _name(params))
    with _open(Run(store, run, then)) as opened:
        yield opened


@contextmanager
def _open(run: Run) -> Iterator[Run]:
    """Closes a run as what it became: finished, failed or killed."""
    status = "FAILED"
    try:
        yield run
        status = "FINISHED" if not run.problems else "FAILED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        with run._noted("the run's end"):
            run.store.end_run(run.id, status)
    if run.problems:
        raise PipelineError(run.problems[0])


def _experiment(params: Params) -> dict[str, Any]:
    """The parameters that determine the result, by name."""
    return {name: value for name, value in params.flat().items() if not name.startswith(MACHINE)}


def _name(params: Params) -> str:
    return os.environ.get("DVC_EXP_NAME") or f"{params.dataset}-{params.model.backbone}-{params.loss}"


def _tags(params: Params) -> dict[str, str]:
    experiment = os.environ.get("DVC_EXP_NAME", "")  # empty: the workspace, without an experiment
    return {"dataset": params.dataset, "loss": params.loss, "dvc_experiment": experiment} | _revision()


def _revision() -> dict[str, str]:
    """The commit that an experiment started from, and whether tracked files differ from it."""
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    revision = baseline or _git("rev-parse", "HEAD")
    if not revision:
        return {}  # an unpacked archive, not a repository
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {"git_revision": revision, "git_dirty": str(dirty).lower()} | (
        {"dvc_baseline": baseline} if baseline else {}
    )


def _git(*arguments: str) -> str:
    try:
        answer = subprocess.run(["git", *arguments], cwd=workspace(), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def prepare() -> None:
    """Makes the store where it is missing.

    Raises:
        PipelineError: it can't be made or opened.
    """
    with _one_line("opening the store"):
        Store.open()


def store_uri() -> str:
    return f"sqlite:///{root() / 'mlflow.db'}?timeout=60"


def artifacts_uri() -> str:
    return (root() / "mlartifacts").as_uri()


@contextmanager
def ui(port: int) -> Iterator[servers.Server]:
    """Yields MLflow's server once its page answers, and stops it at the end.

    Raises:
        PipelineError: the port is taken, the store can't be opened, or the server doesn't start.
    """
    servers.require_free_port(port)
    prepare()  # a server that makes the store first would keep artifacts from direct clients
    command = [sys.executable, "-m", "mlflow", "ui", "--host", servers.LOOPBACK, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store_uri(), "--default-artifact-root", artifacts_uri()]
    command += ["--uvicorn-opts", "--log-level warning"]
    address = f"http://{servers.LOOPBACK}:{port}"
    with servers.run_server(
        "MLflow", command, probe=f"{address}/health", address=address, environment=UI_ENVIRONMENT
    ) as started:
        yield started


@dataclass(frozen=True)
class Store:
    """MLflow's client on our store and experiment."""

    client: Any
    experiment: str

    @classmethod
    def open(cls) -> "Store":
        """Opens the store, made first where it is missing: under a lock, or two first users break it.

        The experiment gets its artifact folder explicitly: otherwise it is `./mlruns` of whoever came first.
        """
        with FileLock(state_dir() / "mlflow.lock"), _quiet():
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=store_uri())
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                number = client.create_experiment(EXPERIMENT, artifact_location=artifacts_uri())
            else:
                number = experiment.experiment_id
                if experiment.lifecycle_stage == "deleted":  # by someone, in the UI
                    client.restore_experiment(number)
            connection = sqlite3.connect(root() / "mlflow.db", timeout=60)
            connection.execute("PRAGMA journal_mode=WAL")  # writers then don't wait for readers; stays with the file
            connection.close()
        return cls(client, str(number))

    def find_run(
        self, tags: Mapping[str, str], *, without: str | None, params: Mapping[str, Any] | None = None
    ) -> str | None:
        """The newest run with these tags, without that tag, and with no parameter that contradicts `params`."""
        condition = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items() if value)
        empty = [name for name, value in tags.items() if not value] + ([without] if without else [])
        for run in self.client.search_runs([self.experiment], condition, order_by=["attributes.start_time DESC"]):
            logged, wanted = run.data.params, params or {}
            # MLflow refuses to change a parameter.
            fits = all(logged.get(name, str(value)) == str(value) for name, value in wanted.items())
            if fits and not any(run.data.tags.get(name) for name in empty):
                return str(run.info.run_id)
        return None

    def open_run(self, found: str | None, params: Mapping[str, Any], tags: Mapping[str, str], name: str) -> str:
        """Continues the run that was found, or opens one; with these parameters and tags."""
        if found is None:
            found = str(self.client.create_run(self.experiment, tags=dict(tags), run_name=name).info.run_id)
        else:
            self.client.update_run(found, status="RUNNING")
            self.set_tags(found, tags)
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entries), PARAMS_BATCH):
            self.client.log_batch(found, params=entries[start : start + PARAMS_BATCH])
        return found

    def log_metrics(self, run: str, points: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value, step in points]
        for start in range(0, len(entries), BATCH):
            self.client.log_batch(run, metrics=entries[start : start + BATCH])

    def set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if tags:
            self.client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])

    def log_artifact(self, run: str, path: Path) -> None:
        if path.is_dir():
            self.client.log_artifacts(run, str(path), path.name)
        else:
            self.client.log_artifact(run, str(path))

    def end_run(self, run: str, status: str) -> None:
        self.client.set_terminated(run, status)


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow's start without what people can't act on: table migrations, its libraries' deprecations, telemetry."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns what MLflow, its database and the disk raise into one line."""
    with _quiet():
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise PipelineError(
            f"{root() / 'mlflow.db'}: MLflow: {what}: {reason[0]}; free the disk or the lock, or move that file away"
        ) from error
