"""MLflow's store: the project's own database or a server of the person's own. Applies the operations of the queue."""

import logging
import os
import re
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from pipeline.errors import PipelineError
from pipeline.integrations import mlflow_database, mlflow_model, mlflow_view
from pipeline.integrations.mlflow_errors import describe_error, is_refusal
from pipeline.integrations.mlflow_model import ModelFiles
from pipeline.integrations.mlflow_queue import Entry, Operation
from pipeline.workspace import root

EXPERIMENT = "fcos"
METRICS_PER_CALL = 1000  # MLflow's limits
PARAMS_PER_CALL = 100
_WORD = re.compile(r"\w+")  # a value that a filter can contain as it is
# A server that is down or slow must not hold up a stage: the queue repeats what fails.
_SERVER_ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


class RefusedError(PipelineError):
    """MLflow refuses an operation, and would refuse it again."""


def destination() -> str:
    """The address of MLflow's server, from MLFLOW_TRACKING_URI; empty for the project's own store.

    Raises:
        PipelineError: the variable has another kind of address.
    """
    address = os.environ.get("MLFLOW_TRACKING_URI", "").strip()
    if address and urlsplit(address).scheme not in ("http", "https"):
        raise PipelineError(
            "MLFLOW_TRACKING_URI: only the http:// or https:// address of a server is supported; unset the variable to "
            "use the project's own store"
        )
    return address.rstrip("/")


@dataclass(frozen=True)
class Store:
    """MLflow's client for an experiment."""

    client: Any
    experiment: str

    @classmethod
    def open(cls, server: str = "") -> "Store":
        """Opens a store, and creates the experiment if it is missing.

        Args:
            server: the server's address; empty for the project's own store.

        Raises:
            PipelineError: the store can't be opened.
        """
        with one_line_errors("opening the store", server):
            client, location = _server_client(server) if server else mlflow_database.open_client()
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "").strip() or EXPERIMENT
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                experiment = client.get_experiment(client.create_experiment(name, artifact_location=location))
            elif experiment.lifecycle_stage == "deleted":  # by a person in the UI
                client.restore_experiment(experiment.experiment_id)
            number = str(experiment.experiment_id)
            for tag, value in ((mlflow_view.KIND_TAG, mlflow_view.KIND), (mlflow_view.TAG, mlflow_view.state())):
                if experiment.tags.get(tag) != value:
                    client.set_experiment_tag(number, tag, value)
        return cls(client, number)

    def find_run(
        self, tags: Mapping[str, str], *, without: str | None = None, params: Mapping[str, Any] | None = None
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

    def find_model(self, weights: str, run: str | None = None) -> str | None:
        """The newest complete model with these weights, of this run or of any."""
        order = [{"field_name": "creation_time", "ascending": False}]
        found = self.client.search_logged_models([self.experiment], f"tags.weights = '{weights}'", order_by=order)
        complete = (item for item in found if item.status == "READY" and run in (None, item.source_run_id))
        return next((str(item.model_id) for item in complete), None)

    def apply(self, entry: Entry, operation: Operation) -> None:
        """Applies an operation. Applying it again changes nothing.

        Raises:
            RefusedError: MLflow refuses it.
            PipelineError: MLflow can't be reached, or has no space.
        """
        kind, values = operation["kind"], {name: value for name, value in operation.items() if name != "kind"}
        with one_line_errors(values.pop("what", kind), entry.destination):
            _OPERATIONS[kind](self, entry, **values)

    def _open_run(
        self,
        entry: Entry,
        *,
        name: str,
        time: int,
        tags: Mapping[str, str],
        params: Mapping[str, str],
        search: Mapping[str, Any],
        continued: Mapping[str, Any],
        origin: Mapping[str, Any] | None = None,
    ) -> None:
        """Continues the run that the search finds, or opens one.

        Args:
            tags, params: of a new run.
            search: arguments of `find_run`.
            continued: `tags` and `params` of a run that is continued.
            origin: a search for the run that made the stage's input, and the tag that names it in a new run.
        """
        run = self.find_run({"queue_entry": entry.name}) or self.find_run(**search)
        if run:
            self.client.update_run(run, status="RUNNING")
            tags, params = continued["tags"], continued["params"]
        else:
            tags = {**tags, "queue_entry": entry.name, **self._origin_tags(origin)}
            run = str(self.client.create_run(self.experiment, start_time=time, run_name=name).info.run_id)
            self._set_tags(run, tags)
        entry.run = run
        self._set_tags(run, tags)
        self._log_params(run, params)

    def _origin_tags(self, origin: Mapping[str, Any] | None) -> dict[str, str]:
        """The tag with the run that made a stage's input, and a description that links to it."""
        run = self.find_run(**origin["search"]) if origin else None
        if not origin or not run:
            return {}
        name = self.client.get_run(run).info.run_name
        link = f"{origin['text']} [{name}]({mlflow_view.run_page(self.experiment, run)})."
        return {origin["tag"]: run, "mlflow.note.content": link}

    def _log_params(self, run: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entries = [Param(key, value) for key, value in params.items()]
        for start in range(0, len(entries), PARAMS_PER_CALL):
            self.client.log_batch(run, params=entries[start : start + PARAMS_PER_CALL])

    def _set_tags(self, run: str, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        if tags:
            self.client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items()])

    def _apply_tags(self, entry: Entry, *, tags: Mapping[str, str]) -> None:
        self._set_tags(entry.run, tags)

    def _log_metrics(
        self, entry: Entry, *, points: Sequence[Sequence[Any]], weights: str = "", dataset: Sequence[str] = ()
    ) -> None:
        """Logs metrics.

        Args:
            points: name, value, time in milliseconds and step of each.
            weights: the digest of the weights that they measure, whose model they are linked to.
            dataset: name and digest of the data set that they were measured on.
        """
        from mlflow.entities import LoggedModelInput, Metric

        model = self.find_model(weights) if weights else None
        name, digest = dataset if model and dataset else (None, None)
        entries = [Metric(*point, model_id=model, dataset_name=name, dataset_digest=digest) for point in points]
        for start in range(0, len(entries), METRICS_PER_CALL):
            self.client.log_batch(entry.run, metrics=entries[start : start + METRICS_PER_CALL])
        if model and self.client.get_logged_model(model).source_run_id != entry.run:
            self.client.log_inputs(entry.run, models=[LoggedModelInput(model)])

    def _log_artifact(self, entry: Entry, *, file: str, folder: str | None = None) -> None:
        path = entry.path / file
        if path.is_dir():
            self.client.log_artifacts(entry.run, str(path), path.name)
        else:
            self.client.log_artifact(entry.run, str(path), folder)

    def _log_datasets(self, entry: Entry, *, datasets: Sequence[Mapping[str, str]]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = []
        for values in datasets:
            context = InputTag("mlflow.data.context", values["context"])
            inputs.append(
                DatasetInput(Dataset(**{key: item for key, item in values.items() if key != "context"}), [context])
            )
        self.client.log_inputs(entry.run, datasets=inputs)

    def _log_model(
        self, entry: Entry, *, name: str, weights: str, files: str, step: int, tags: Mapping[str, str],
        params: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Logs the detector in the folder `files` as a model of the run."""
        if not self.find_model(weights, entry.run):
            self._write_model(entry.path / files, name, entry.run, {**tags, "weights": weights}, params, step)

    def log_model(self, model: ModelFiles, name: str, run: str | None) -> str:
        """Logs a detector as a model, of a run or of none, and returns its id."""
        with TemporaryDirectory(prefix="fcos-") as folder:
            model.write(Path(folder))
            tags = {**model.tags, "weights": model.digest}
            return self._write_model(Path(folder), name, run, tags, model.params)

    def _write_model(
        self, files: Path, name: str, run: str | None, tags: Mapping[str, str], params: Mapping[str, str], step: int = 0
    ) -> str:
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        created = self.client.create_logged_model(
            self.experiment, name=name, source_run_id=run, tags=dict(tags), params=dict(params), model_type="detector"
        )
        model = str(created.model_id)
        with TemporaryDirectory(prefix="fcos-") as folder:
            try:
                mlflow_model.write(Path(folder, "model"), files, model=model, run=run)
            except MlflowException as error:  # not the store's: it would fail again
                self.client.finalize_logged_model(model, "FAILED")
                raise RefusedError(f"{files}: MLflow: model {name}: {error}") from error
            self.client.log_model_artifacts(model, str(Path(folder, "model")))
        self.client.finalize_logged_model(model, "READY")
        if run:
            self.client.log_outputs(run, [LoggedModelOutput(model, step)])
        return model

    def _end_run(self, entry: Entry, *, status: str, time: int) -> None:
        self.client.set_terminated(entry.run, status, time)


_OPERATIONS: dict[str, Callable[..., None]] = {
    "open": Store._open_run,
    "tags": Store._apply_tags,
    "metrics": Store._log_metrics,
    "artifact": Store._log_artifact,
    "datasets": Store._log_datasets,
    "model": Store._log_model,
    "end": Store._end_run,
}


def _server_client(server: str) -> tuple[Any, None]:
    """A client of a server, which chooses where it keeps artifacts."""
    for name, value in _SERVER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=server, registry_uri=server), None


def import_mlflow() -> None:
    """Imports what sending to a store needs."""
    _silence()
    import mlflow.pyfunc
    import mlflow.tracking.client  # noqa: F401


def _silence() -> None:
    """Turns off MLflow's telemetry, its output on migrations, progress and errors, and its libraries' warnings.

    Warnings of these modules stay off, since the thread that sends can't restore filters that other threads may change.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    for name in ("alembic", "mlflow.pyfunc", "mlflow.store.db.utils", "mlflow.utils.requirements_utils"):
        if (logger := logging.getLogger(name)).level != logging.CRITICAL:  # setLevel walks through all loggers
            logger.setLevel(logging.CRITICAL)  # errors are raised, too
    for category in (DeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=r"(mlflow|alembic|sqlalchemy)\b")


@contextmanager
def one_line_errors(action: str, server: str) -> Iterator[None]:
    """Turns errors of MLflow, its database, its server and the disk into a PipelineError."""
    _silence()
    import mlflow.store
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
        migrations = Path(mlflow.store.__file__).parent / "db_migrations/versions"
        database, address = root() / "mlflow.db", mlflow_database.store_uri()
        message = describe_error(
            error, action, database=database, address=address, migrations=migrations, server=server
        )
        raise (RefusedError if is_refusal(error) else PipelineError)(message) from error
