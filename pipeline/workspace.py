"""Where things lie: the workspace a stage runs in, and the main repository that outlives it."""

import os
from pathlib import Path

from pipeline.errors import PipelineError


def workspace() -> Path:
    """The folder that holds dvc.yaml: the repository, or a temporary clone of it under `dvc exp run --queue`."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise PipelineError(f"{here}: no dvc.yaml here or above: run this inside the project's folder")


def root() -> Path:
    """The main repository's root, also inside a temporary clone (DVC names it in DVC_ROOT).

    Whatever must outlive a temporary workspace is addressed from here: MLflow's store, resumable training
    state, FiftyOne's database.
    """
    return Path(os.environ.get("DVC_ROOT") or workspace()).resolve()


def state_dir() -> Path:
    """The folder, made when missing, for what outlives runs and is nobody's output: `<root>/.fcos`."""
    folder = root() / ".fcos"
    folder.mkdir(exist_ok=True)
    return folder


def from_root(path: str | Path) -> Path:
    """A path of params.yaml as a person means it: relative to the main repository's root."""
    return root() / path
