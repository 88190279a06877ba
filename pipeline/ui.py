"""MLflow's page over our store, on 127.0.0.1."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline import ports, servers, tracking

# Without the job runner: two processes instead of fifteen.
ENVIRONMENT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"} | {
    "PYTHONWARNINGS": "ignore"
}


@contextmanager
def server(port: int) -> Iterator[servers.Server]:
    """Yields MLflow's server once its page answers, and stops it at the end.

    Raises:
        PipelineError: the port is taken, the store can't be opened, or the server doesn't start.
    """
    ports.require_free(port)
    tracking.prepare()  # a server that makes the store first would keep artifacts from direct clients
    command = [sys.executable, "-m", "mlflow", "ui", "--host", ports.LOOPBACK, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", tracking.store_uri(), "--default-artifact-root", tracking.artifacts_uri()]
    command += ["--uvicorn-opts", "--log-level warning"]
    address = f"http://{ports.LOOPBACK}:{port}"
    with servers.serving(
        "MLflow", command, probe=f"{address}/health", address=address, environment=ENVIRONMENT
    ) as started:
        yield started
