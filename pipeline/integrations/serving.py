"""Serves a detector through MLflow's scoring server, in a process that ends with the one that uses it."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from fcos.onnx_files import SUFFIX
from pipeline.errors import PipelineError
from pipeline.integrations import servers

SETTINGS_VARIABLE = "FCOS_SERVING"  # environment variable of the server's process
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "PYTHONWARNINGS": "ignore"} | {
    # glibc would give each thread that decodes an arena of its own, which grows and is never returned.
    "MALLOC_ARENA_MAX": "2"
}


@dataclass(frozen=True)
class Limits:
    """What a request may contain. Larger requests are refused before anything is decoded."""

    megabytes: float = 32  # of the request's body; base64 is a third larger than the file
    megapixels: float = 50  # of an image
    images: int = 16


@dataclass(frozen=True)
class Settings:
    """What the server's process is told: either weights or a model."""

    weights: str | None
    model: str | None  # address in MLflow's registry, such as models:/NAME@ALIAS
    device: str
    limits: Limits
    loopback: bool  # whether the server listens on the loopback interface

    @property
    def source(self) -> str:
        """What the detector is called: its address in the registry, or the file's name without its folder."""
        return self.model or Path(self.weights or "").name

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Self:
        values = json.loads(os.environ[SETTINGS_VARIABLE])
        return cls(**values | {"limits": Limits(**values["limits"])})


@contextmanager
def serve(
    *, weights: Path | None, model: str | None, device: str, limits: Limits, host: str, port: int
) -> Iterator[servers.Server]:
    """Runs the server, yields it once it listens, and stops it when the context ends.

    Args:
        weights: a detector's file; or
        model: the address of a registered model.
        device: `auto`, `cpu` or `cuda`.
        host: the address to listen on. Addresses other than 127.0.0.1 and ::1 can be reached by other machines.

    Raises:
        PipelineError: the port is in use, the detector can't be loaded, or the server does not start.
    """
    if weights:
        _check(weights)
    settings = Settings(
        str(weights.resolve()) if weights else None, model, device, limits, host in servers.LOOPBACK_ADDRESSES
    )
    environment = {**ENVIRONMENT, SETTINGS_VARIABLE: settings.to_json()}
    app = "pipeline.integrations.serving_app:server_app"
    with servers.run_application("Detector", app, host, port, environment=environment) as server:
        yield server


def _check(weights: Path) -> None:
    """Checks that there is a detector that can be served.

    Raises:
        PipelineError: a file is missing, or it is of another kind.
    """
    if weights.suffix not in (".safetensors", SUFFIX):
        raise PipelineError(f"{weights}: neither a .safetensors file nor an ONNX file of `fcos export`; give one")
    if weights.suffix == SUFFIX:
        if not weights.is_file():
            raise PipelineError(f"{weights}: no such file")
        return
    for file in (weights, weights.with_suffix(".json")):
        if not file.is_file():
            raise PipelineError(f"{file}: no such file; the weights and their .json file must be in the same folder")
