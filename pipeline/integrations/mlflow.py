"""Logs an experiment to MLflow: one run for train, evaluate and inspect. The only module that imports mlflow.

One store under the main repository's root serves `dvc repro`, `dvc exp run` and its temporary workspaces. A stage finds
the run to continue by the digest of its input file. A run id in a stage's output would make equal outputs differ.
"""

import logging
import os
import re
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock
from starlette.types import ASGIApp

from pipeline.errors import PipelineError
from pipeline.integrations import access, servers
from pipeline.integrations.mlflow_errors import describe_error
from pipeline.params import Params
from pipeline.workspace import close_to_others, root, state_dir, workspace

EXPERIMENT = "fcos"
EVALUATE_SECTIONS = ("evaluate.", "postprocess.")  # parameters that the evaluate stage logs
LATER_SECTIONS = (*EVALUATE_SECTIONS, "inspect.")  # parameters that training doesn't depend on
# These parameters may change when an interrupted training continues, and MLflow refuses to change a parameter: tags.
MACHINE_SECTION = "machine."
_WORD = re.compile(r"\w+")  # a value that a filter can contain as it is
METRICS_PER_CALL = 1000  # MLflow's limits
PARAMS_PER_CALL = 100
# Without the job runner, the server has two processes instead of fifteen.
UI_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"} | {
    "PYTHONWARNINGS": "ignore"
}


@dataclass
class Run:
    """An open MLflow run. Logging errors are raised at its end only, so that they don't stop a long training."""

    store: "Store"
    id: str
    done_tag: str
    errors: list[str] = field(default_factory=list)

    def log_steps(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Logs the metrics of several steps. Each row has the key "step"; its other keys are names of metrics."""
        points = [
            (name, value, int(row["step"])) for row in rows for name, value in row.items() if name != "step"
        ]  # fmt: skip
        with self._deferred_errors("metrics"):
            self.store.log_metrics(self.id, points)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Logs metrics of one step."""
        self.log_steps([{**values, "step": step}])

    def log_artifacts(self, *paths: Path) -> None:
        """Copies files and whole folders into the run, under their own names."""
        for path in paths:
            with self._deferred_errors(path.name):
                self.store.log_artifact(self.id, path)

    def mark_finished(self, digest: str) -> None:
        """Tags the run with the digest of the stage's result, by which the next stage finds it."""
        with self._deferred_errors(f"tag {self.done_tag}"):
            self.store.set_tags(self.id, {self.done_tag: digest})

    @contextmanager
    def _deferred_errors(self, action: str) -> Iterator[None]:
        try:
            with _one_line_errors(action):
                yield
        except PipelineError as error:
            if not self.errors:
                print(f"{error}; continuing without it", file=sys.stderr, flush=True)  # noqa: T201
            self.errors.append(str(error))


@contextmanager
def train_run(params: Params, *, key: str, resumed: bool = False) -> Iterator[Run]:
    """Opens a run, or continues the interrupted run with the same key.

    Args:
        key: identifies everything that determines the training, as the key of its resumable state does.
        resumed: whether the training continues from a saved state. Then a finished run is continued too: its stage
            failed afterwards, because an input had changed.

    Raises:
        PipelineError: the store can't be opened, or something couldn't be logged (raised at the end).
    """
    with _one_line_errors("opening the store"):
        store = Store.open()
        values = {
            name: value for name, value in _experiment_params(params).items() if not name.startswith(LATER_SECTIONS)
        }
        machine = {name: str(value) for name, value in params.flat().items() if name.startswith(MACHINE_SECTION)}
        tags = {**_tags(params), **machine, "key": key}
        existing = store.find_run({"key": key}, without=None if resumed else "weights", params=values)
        run = store.open_run(existing, values, tags, _run_name(params))
    with _open(Run(store, run, "weights")) as opened:
        yield opened


@contextmanager
def evaluate_run(params: Params, weights: str) -> Iterator[Run]:
    """Continues the run that trained the weights with this digest, unless it has been evaluated already.

    If DVC restored the weights from its cache, continuing could overwrite the metrics of another experiment. Then a new
    run is opened, whose tag `trained_by` names the run that trained.

    Raises:
        PipelineError: as for `train`.
    """
    with _later_stage_run(params, EVALUATE_SECTIONS, ("weights", weights), "predictions", "trained_by") as run:
        yield run


@contextmanager
def inspect_run(params: Params, predictions: str) -> Iterator[Run]:
    """Continues the run that made the predictions with this digest, or opens one with the tag `evaluated_by`.

    Raises:
        PipelineError: as for `train`.
    """
    with _later_stage_run(params, ("inspect.",), ("predictions", predictions), "inspected", "evaluated_by") as run:
        yield run


@contextmanager
def _later_stage_run(
    params: Params, sections: tuple[str, ...], input_tag: tuple[str, str], done_tag: str, origin_tag: str
) -> Iterator[Run]:
    """Continues the run with the input's tag and of the same experiment, or opens one that names it in `origin_tag`."""
    with _one_line_errors("opening the store"):
        store, values, tags = Store.open(), _experiment_params(params), _tags(params)
        stage_values = {name: value for name, value in values.items() if name.startswith(sections)}
        wanted = dict([input_tag], dvc_experiment=tags["dvc_experiment"])
        existing = store.find_run(wanted, without=done_tag, params=stage_values)
        if existing:
            run = store.open_run(existing, stage_values, {}, _run_name(params))
        else:
            origin = store.find_run(dict([input_tag]), without=origin_tag)
            tags |= dict([input_tag]) | ({origin_tag: origin} if origin else {})
            run = store.open_run(None, values, tags, _run_name(params))
    with _open(Run(store, run, done_tag)) as opened:
        yield opened


@contextmanager
def _open(run: Run) -> Iterator[Run]:
    """Ends a run with its status: finished, failed or killed."""
    status = "FAILED"
    try:
        yield run
        status = "FINISHED" if not run.errors else "FAILED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        with run._deferred_errors("ending the run"):
            run.store.end_run(run.id, status)
    if run.errors:
        raise PipelineError(run.errors[0])


def _experiment_params(params: Params) -> dict[str, Any]:
    """The parameters that determine the result, by their dotted names."""
    return {name: value for name, value in params.flat().items() if not name.startswith(MACHINE_SECTION)}


def _run_name(params: Params) -> str:
    return os.environ.get("DVC_EXP_NAME") or f"{params.dataset}-{params.model.backbone}-{params.loss}"


def _tags(params: Params) -> dict[str, str]:
    experiment = os.environ.get("DVC_EXP_NAME", "")  # empty for `dvc repro`
    return {"dataset": params.dataset, "loss": params.loss, "dvc_experiment": experiment} | _revision()


def _revision() -> dict[str, str]:
    """Tags for the commit that an experiment started from, and whether tracked files differ from it."""
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    revision = baseline or _git("rev-parse", "HEAD")
    if not revision:
        return {}  # not a git repository
    dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {"git_revision": revision, "git_dirty": str(dirty).lower()} | (
        {"dvc_baseline": baseline} if baseline else {}
    )


def _git(*arguments: str) -> str:
    try:
        result = subprocess.run(["git", *arguments], cwd=workspace(), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""


def find_predictions(name: str) -> str | None:
    """The digest of the predictions of the run with this name or id; None if there is no such run.

    Raises:
        PipelineError: several runs have this name, the run has no predictions, or the store can't be opened.
    """
    if not (root() / "mlflow.db").is_file():
        return None
    with _one_line_errors("looking for a run"):
        store = Store.open()
        quote_mark = '"' if "'" in name else "'"
        runs = [
            run
            for attribute in ("run_id", "run_name")
            for run in store.client.search_runs([store.experiment], f"{attribute} = {quote_mark}{name}{quote_mark}")
        ]
    if not runs:
        return None
    if len(runs) > 1:
        raise PipelineError(f"{name}: {len(runs)} MLflow runs have this name; give the id of one, see `fcos ui`")
    predictions: str | None = runs[0].data.tags.get("predictions")
    if predictions is None:
        raise PipelineError(f"{name}: this MLflow run has not been evaluated; run `dvc repro evaluate`")
    return predictions


def prepare() -> None:
    """Creates the store if it is missing.

    Raises:
        PipelineError: the store can't be created or opened.
    """
    with _one_line_errors("opening the store"):
        Store.open()


def store_uri() -> str:
    """The address of the database, with the special characters of its path as `%3F`.

    MLflow takes what follows `sqlite:///` for a path and creates its folders; it leaves `sqlite+pysqlite:///` alone.
    """
    return f"sqlite+pysqlite:///{quote(str(root() / 'mlflow.db'))}?timeout=60"


def artifacts_uri() -> str:
    return (root() / "mlartifacts").as_uri()


def _close_store_to_others() -> None:
    """Creates the database and the folder of artifacts, closed to other users; closes them if they exist already."""
    database, artifacts = root() / "mlflow.db", root() / "mlartifacts"
    database.touch(mode=0o600)
    artifacts.mkdir(mode=0o700, exist_ok=True)
    # SQLite gives its further files the rights of the database, but they may be older than this rule.
    for path in (artifacts, *database.parent.glob("mlflow.db*")):
        close_to_others(path)


@contextmanager
def ui(port: int) -> Iterator[servers.Server]:
    """Runs MLflow's server and yields it once its page responds.

    Raises:
        PipelineError: the port is taken, the store can't be opened, or the server doesn't start.
    """
    servers.require_free_port(port)  # before the seconds that the store takes
    prepare()  # if the server creates the store, artifacts of clients without a server are refused
    with servers.run_server(
        "MLflow", "pipeline.integrations.mlflow:server_app", port, environment=UI_ENVIRONMENT
    ) as server:
        yield server


def server_app() -> ASGIApp:
    """MLflow's web application, for the user who started it; it reads and writes no artifacts outside of `mlartifacts`.

    MLflow's own check of the Host header accepts private addresses by their first characters: `10.attacker.example`.
    """
    from mlflow.server import constants
    from mlflow.server.fastapi_app import app
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry as registry

    os.environ |= {constants.BACKEND_STORE_URI_ENV_VAR: store_uri(), constants.ARTIFACT_ROOT_ENV_VAR: artifacts_uri()}
    for scheme in ("", "file"):
        registry.register(scheme, _local_artifacts)
    return access.owner_only(app)


def _local_artifacts(uri: str, **options: Any) -> Any:
    """MLflow's repository of a local folder, if it is in `mlartifacts`: a client may choose any for an experiment."""
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    repository = LocalArtifactRepository(uri, **options)
    if not Path(repository.artifact_dir).resolve().is_relative_to((root() / "mlartifacts").resolve()):
        raise MlflowException(f"{uri}: not in {root() / 'mlartifacts'}", PERMISSION_DENIED)
    return repository


@dataclass(frozen=True)
class Store:
    """MLflow's client for this project's store and experiment."""

    client: Any
    experiment: str

    @classmethod
    def open(cls) -> "Store":
        """Opens the store, and creates it if it is missing, under a lock: two processes would damage it.

        The experiment gets an explicit artifact folder; MLflow's default is `./mlruns` of the current folder.
        """
        with FileLock(state_dir() / "mlflow.lock"), _quiet():
            from mlflow import MlflowClient
            from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

            _close_store_to_others()
            # First, since MLflow tries to open a folder or a file without permission for minutes.
            with closing(sqlite3.connect(root() / "mlflow.db", timeout=60)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")  # writers don't wait for readers; a property of the file
            # The client would write the current folder into an SQL statement, quotes included.
            SqlAlchemyStore(store_uri(), artifacts_uri())
            client = MlflowClient(tracking_uri=store_uri())
            experiment = client.get_experiment_by_name(EXPERIMENT)
            if experiment is None:
                number = client.create_experiment(EXPERIMENT, artifact_location=artifacts_uri())
            else:
                number = experiment.experiment_id
                if experiment.lifecycle_stage == "deleted":  # by a person in the UI
                    client.restore_experiment(number)
        return cls(client, str(number))

    def find_run(
        self, tags: Mapping[str, str], *, without: str | None, params: Mapping[str, Any] | None = None
    ) -> str | None:
        """The newest run with these tags and without the tag `without`, whose parameters don't contradict `params`.

        An empty tag matches runs that don't have it.
        """
        # The filter has digests only. Other values are compared here: it has no escape for the quote of `o'brien`.
        condition = " and ".join(f"tags.{name} = '{value}'" for name, value in tags.items() if _WORD.fullmatch(value))
        wanted = dict(tags) | ({without: ""} if without else {})
        for run in self.client.search_runs([self.experiment], condition, order_by=["attributes.start_time DESC"]):
            same_tags = all(run.data.tags.get(name, "") == value for name, value in wanted.items())
            # MLflow refuses to change a parameter.
            logged = run.data.params
            if same_tags and all(logged.get(name, str(value)) == str(value) for name, value in (params or {}).items()):
                return str(run.info.run_id)
        return None

    def open_run(self, run: str | None, params: Mapping[str, Any], tags: Mapping[str, str], name: str) -> str:
        """Continues a run, or opens one if it is None, and logs parameters and tags; returns its id."""
        if run is None:
            run = str(self.client.create_run(self.experiment, tags=dict(tags), run_name=name).info.run_id)
        else:
            self.client.update_run(run, status="RUNNING")
            self.set_tags(run, tags)
        from mlflow.entities import Param

        entries = [Param(key, str(value)) for key, value in params.items()]
        for start in range(0, len(entries), PARAMS_PER_CALL):
            self.client.log_batch(run, params=entries[start : start + PARAMS_PER_CALL])
        return run

    def log_metrics(self, run: str, points: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value, step in points]
        for start in range(0, len(entries), METRICS_PER_CALL):
            self.client.log_batch(run, metrics=entries[start : start + METRICS_PER_CALL])

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
    """Suppresses MLflow's output on migrations and errors, its libraries' deprecation warnings, and telemetry."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are raised, too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextmanager
def _one_line_errors(action: str) -> Iterator[None]:
    """Turns errors of MLflow, its database and the disk into a PipelineError."""
    with _quiet():
        import mlflow.store
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        migrations = Path(mlflow.store.__file__).parent / "db_migrations/versions"
        raise PipelineError(
            describe_error(error, action, database=root() / "mlflow.db", address=store_uri(), migrations=migrations)
        ) from error
