"""Digests of many files, stored between runs: reading every image of a large data set at each start takes minutes."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import digest, read_json, write_json
from pipeline.workspace import state_dir, workspace

# A file that changes twice within a tick of the clock has one time for both contents (git calls such files racy), so
# the digest of a file that changed less than this many nanoseconds ago is not stored.
_RACY_NS = 2_000_000_000


def file_digests(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file's content, in hexadecimal.

    The digests are stored in `.fcos/digests.json`, and count as long as a file's size, modification time and change
    time (ctime) stay the same. Programs can't set the change time, so a file is read again if another one of the same
    size and modification time has replaced it.

    Raises:
        PipelineError: a file is missing.
    """
    started, home, statuses = time.time_ns(), workspace(), [_status(path) for path in paths]
    keys = [_key(path, status, home) for path, status in zip(paths, statuses, strict=True)]
    stored = _read_stored()
    unknown = {key: path for key, path in zip(keys, paths, strict=True) if key not in stored}
    if not unknown:
        return [stored[key] for key in keys]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashlib computes without holding Python's lock
        stored |= zip(unknown, pool.map(digest, unknown.values()), strict=True)
    digests = [stored[key] for key in keys]
    settled = [status.st_ctime_ns < started - _RACY_NS for status in statuses]
    write_json(_store(), {key: value for key, value, keep in zip(keys, digests, settled, strict=True) if keep})
    return digests


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise PipelineError(f"{path}: no such file") from None


def _key(path: Path, status: os.stat_result, home: Path) -> str:
    """The path in the workspace `home`, and what changes with the content."""
    name = path.relative_to(home) if path.is_relative_to(home) else path
    return f"{name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def _store() -> Path:
    return state_dir() / "digests.json"


def _read_stored() -> dict[str, str]:
    """The stored digests; none if the file is missing or damaged."""
    with suppress(PipelineError):
        content: Any = read_json(_store())
        if isinstance(content, dict):
            return {key: value for key, value in content.items() if isinstance(value, str)}
    return {}


def dvc_hash(folder: Path) -> str:
    """The hash of a folder, as in dvc.lock: MD5 of the list of its files with their MD5, by path."""
    files = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    listed = [{"md5": _md5(path), "relpath": name} for name, path in files]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
