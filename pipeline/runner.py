"""What every stage does: one-line errors, no orphan processes, and a result that matches its declared inputs."""

import errno
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import params
from pipeline.digests import file_digests
from pipeline.errors import PipelineError
from pipeline.files import digest
from pipeline.params import Params
from pipeline.process import die_with_parent, handle_signals, resume_collection
from pipeline.workspace import workspace
from pipeline.yaml_files import read_yaml

Cleanup = Callable[[], object]  # what a stage removes once its result has been accepted


def run_stage(name: str, run: Callable[[Params], Cleanup | None]) -> None:
    """Runs a stage and exits with status 1, after one line, if it fails.

    DVC records parameters and code in dvc.lock as they are when a stage ends. Therefore the stage's inputs are compared
    at its start and its end, and the stage fails if they differ.

    Args:
        run: writes the outputs. It may return a function that removes resumable state; that function is called last,
            so that a stage which fails before can resume.
    """
    resume_collection()
    die_with_parent()
    stop_request = handle_signals(name)
    try:
        with disk_errors():
            values = params.load()
            before = _inputs(name, _quick_versions)
            cleanup = run(values)
            _check_unchanged(before, _inputs(name, _quick_versions), name, resumable=cleanup is not None)
            if cleanup:
                cleanup()
    except PipelineError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except Exception:
        if stop_request.number is None:
            raise
        sys.exit(128 + stop_request.number)  # a library may raise its own exception when a signal interrupts it


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turns the errors of a full disk, and of files that this user may not read or write, into a PipelineError."""
    try:
        yield
    except OSError as error:
        remedies = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and run `dvc repro` again")
        remedies |= dict.fromkeys(
            (errno.EACCES, errno.EPERM, errno.EROFS), "run `dvc repro` as a user who may read and write the project"
        )
        if error.errno not in remedies:
            raise
        path = error.filename or workspace()
        raise PipelineError(f"{path}: {error.strerror}; {remedies[error.errno]}") from None


def fingerprint(name: str, **resolved: str) -> str:
    """Hash of everything that determines a stage's result: parameters, code and data; 32 hexadecimal digits.

    Args:
        resolved: what a parameter that leaves the choice to the machine means on this one, by name.

    Files count by name and content, as in dvc.lock. The size and time of an image say nothing about its content: they
    stay the same when an archive with fixed times is unpacked over another one.
    """
    return hashlib.sha256(json.dumps(_inputs(name, file_digests) | resolved).encode()).hexdigest()[:32]


def _inputs(name: str, versions: Callable[[Sequence[Path]], Sequence[str]]) -> dict[str, str]:
    """The parameters and files that dvc.yaml declares for a stage, each with a string that changes with its content."""
    stage = read_yaml(workspace() / "dvc.yaml")["stages"][name]
    values = read_yaml(workspace() / "params.yaml")
    inputs = {f"params.yaml: {key}": json.dumps(_value(values, key), default=str) for key in stage.get("params", [])}
    files = [file for entry in stage.get("deps", []) for file in _list_files(workspace() / _interpolate(entry, values))]
    return inputs | dict(zip(map(_display_path, files), versions(files), strict=True))


def _list_files(path: Path) -> list[Path]:
    paths = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file for file in paths if file.suffix != ".pyc" and file.is_file()]


def _display_path(file: Path) -> str:
    return str(file.relative_to(workspace()) if file.is_relative_to(workspace()) else file)


def _interpolate(entry: str, values: dict[str, Any]) -> str:
    """A path of dvc.yaml with each `${section.key}` replaced by its value in params.yaml."""
    while "${" in entry:
        head, _, rest = entry.partition("${")
        key, _, tail = rest.partition("}")
        entry = f"{head}{_value(values, key)}{tail}"
    return entry


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _quick_versions(files: Sequence[Path]) -> list[str]:
    """Code by content, since editors save files unchanged; data by size and time, which takes no time to compare."""
    return [digest(file) if file.suffix == ".py" else _size_and_time(file) for file in files]


def _size_and_time(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size} bytes, {status.st_mtime_ns}"


def _check_unchanged(before: dict[str, str], after: dict[str, str], name: str, *, resumable: bool) -> None:
    """Raises PipelineError if an input changed while the stage ran."""
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if not changed:
        return
    others = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    remedy = f"run `dvc repro {name}` again"
    if resumable:
        remedy = f"undo the edit and run `dvc repro` to keep the result, or run `dvc repro {name}` to start anew"
    raise PipelineError(
        f"{changed[0]}{others} changed while this stage ran, so its result doesn't match its inputs: {remedy}"
    )
