"""Locations: the workspace that a stage runs in, and the main repository, which outlives temporary workspaces."""

import os
from pathlib import Path

from pipeline.errors import PipelineError


def workspace() -> Path:
    """The folder that holds dvc.yaml: the repository, or a temporary clone of it during `dvc exp run --queue`.

    Raises:
        PipelineError: neither the current folder nor one above it holds dvc.yaml.
    """
    current = Path.cwd()
    for folder in (current, *current.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise PipelineError(f"{current}: no dvc.yaml in this folder or above it: run the command inside the project")


def root() -> Path:
    """The main repository's root. In a temporary workspace, DVC gives it in the environment variable DVC_ROOT.

    Whatever must outlive a temporary workspace is located from here: MLflow's store, resumable training states,
    FiftyOne's database.
    """
    return Path(os.environ.get("DVC_ROOT") or workspace()).resolve()


def state_dir() -> Path:
    """The folder `<root>/.fcos`, created if missing: files that outlive a run and aren't outputs of a stage."""
    folder = root() / ".fcos"
    folder.mkdir(exist_ok=True)
    return folder


def from_root(path: str | Path) -> Path:
    """A path from params.yaml; relative paths start at the main repository's root."""
    return root() / path
