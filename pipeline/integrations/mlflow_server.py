"""MLflow's page: a server of the project's own store, for its owner alone, or the page of another server."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from pipeline.integrations import access, mlflow_experiments, mlflow_store, mlflow_view, servers
from pipeline.integrations.mlflow_database import artifacts_uri, store_uri
from pipeline.integrations.mlflow_errors import without_password
from pipeline.integrations.mlflow_store import Store
from pipeline.workspace import root

# Without the job runner, the server has two processes instead of fifteen.
UI_ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"} | {
    "PYTHONWARNINGS": "ignore"
}


def server_page(experiment: str | None) -> str | None:
    """The page of the person's own server, as `ui` shows it; None without a server.

    Raises:
        PipelineError: the server can't be reached, or there is no such experiment.
    """
    server = mlflow_store.destination()
    return f"{without_password(server)}/{_page(Store.open(server), experiment)}" if server else None


def _page(store: Store, experiment: str | None) -> str:
    if experiment is None:
        return mlflow_view.page(store.experiment)
    return mlflow_view.run_page(store.experiment, mlflow_experiments.find_run(store, experiment))


@contextmanager
def ui(port: int, experiment: str | None = None) -> Iterator[servers.Server]:
    """Runs MLflow's server on the project's own store, and yields it once its page responds.

    Args:
        experiment: opens the page of the run that made the result of DVC's experiment; None: the table of runs.

    Raises:
        PipelineError: the port is taken, the store can't be opened, the server doesn't start, or there is no such
            experiment.
    """
    servers.require_free_port(port)  # before the seconds that the store takes
    # If the server created the store, it would refuse artifacts of clients without a server.
    fragment = _page(Store.open(), experiment)
    app = "pipeline.integrations.mlflow_server:server_app"
    with servers.run_server("MLflow", app, port, fragment=fragment, environment=UI_ENVIRONMENT) as server:
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
