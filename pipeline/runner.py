"""What every stage has in common: one line for an error, no orphan, and a result that is what its inputs say."""

import errno
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from pipeline import params
from pipeline.errors import PipelineError
from pipeline.files import digest
from pipeline.params import Params
from pipeline.process import die_with_parent, handle_signals
from pipeline.workspace import workspace


def run_stage(name: str, body: Callable[[Params], None]) -> None:
    """Runs one stage and exits: 0 when its outputs are whole, 1 after a line that says why they aren't.

    DVC writes parameters and code into its lock as they are when a stage ends. So what determines the result
    is noted at the start, and where it is something else at the end the stage fails: the lock never lies.
    """
    die_with_parent()
    signaled = handle_signals(name)
    try:
        with full_disk_errors():
            values = params.load()
            before = _inputs(name)
            body(values)
            _still(before, _inputs(name), name)
    except PipelineError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)
    except Exception:
        if signaled.number is None:
            raise
        sys.exit(128 + signaled.number)  # some libraries, stopped in the middle, raise something of their own


@contextmanager
def full_disk_errors() -> Iterator[None]:
    """Makes a full disk a PipelineError."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or workspace()
        raise PipelineError(f"{where}: {error.strerror}; make room, and run `dvc repro` again") from None


def fingerprint(name: str) -> str:
    """Identifies everything that determines a stage's result: its parameters, code and data, in hexadecimal.

    Data files count by name and size, and annotation files by content: reading every image again would take
    longer than some stages.
    """
    return hashlib.sha256(json.dumps(_inputs(name, data=_identity)).encode()).hexdigest()[:32]


def _inputs(name: str, data: Callable[[Path], str] | None = None) -> dict[str, str]:
    """Parameters and files that dvc.yaml declares for the stage, each with what tells a change."""
    yaml = YAML(typ="safe")
    declared = yaml.load(workspace() / "dvc.yaml")["stages"][name]
    values = yaml.load(workspace() / "params.yaml")
    found = {f"params.yaml: {key}": json.dumps(_value(values, key), default=str) for key in declared.get("params", [])}
    for entry in declared.get("deps", []):
        path = workspace() / _filled(entry, values)
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                tell = digest if file.suffix == ".py" else (data or _stamp)
                found[str(file.relative_to(workspace()) if file.is_relative_to(workspace()) else file)] = tell(file)
    return found


def _filled(entry: str, values: dict[str, Any]) -> str:
    """A path of dvc.yaml with its `${a.b}` filled in from params.yaml."""
    while "${" in entry:
        head, _, rest = entry.partition("${")
        key, _, tail = rest.partition("}")
        entry = f"{head}{_value(values, key)}{tail}"
    return entry


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{status.st_size} bytes, {status.st_mtime_ns}"


def _identity(file: Path) -> str:
    return digest(file) if file.suffix == ".json" else f"{file.stat().st_size} bytes"


def _still(before: dict[str, str], after: dict[str, str], name: str) -> None:
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise PipelineError(
            f"{changed[0]}{more} changed while this stage ran, so its result is not what they say now: "
            f"run `dvc repro {name}` again"
        )
