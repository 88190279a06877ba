"""Locations: the workspace that a stage runs in, and the main repository, which outlives temporary workspaces."""

import os
import stat
from contextlib import suppress
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
    """The folder `<root>/.fcos`, created if missing: files that outlive a run and aren't outputs of a stage.

    It is closed to other users of the machine: saved states, caches and databases show what the data is.
    """
    folder = root() / ".fcos"
    folder.mkdir(mode=0o700, exist_ok=True)
    close_to_others(folder)
    return folder


def close_to_others(path: Path) -> None:
    """Takes all rights to a file or folder from everyone but its owner, whatever the umask was when it was created."""
    # Not permitted: it belongs to another user, or the file system knows no permissions.
    # Not found: one of SQLite's temporary files.
    with suppress(PermissionError, FileNotFoundError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            path.chmod(mode & ~0o077)


def from_root(path: str | Path) -> Path:
    """A path from params.yaml; relative paths start at the main repository's root."""
    return root() / path
