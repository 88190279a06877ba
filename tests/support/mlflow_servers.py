"""MLflow's own server, `mlflow server`, with its database in SQLite and in PostgreSQL; each is started once."""

import os
import pwd
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import requests

from pipeline.integrations.servers import find_free_port
from tests.support import warm_python
from tests.support.empty_store import copy_store

START_SECONDS = 240


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Callable[[str], str]]:
    """A function that returns the address of the server on `sqlite` or `postgresql`, which it starts if necessary."""
    addresses: dict[str, str] = {}
    with ExitStack() as servers:

        def address(database: str) -> str:
            if database not in addresses:
                folder = tmp_path_factory.mktemp(f"mlflow-{database}")
                uri = f"sqlite:///{folder}/server.db"
                copy_store(empty_store, folder / "server.db")  # quicker than a new one
                with closing(sqlite3.connect(folder / "server.db")) as store, store:
                    store.execute("DELETE FROM experiment_tags")
                    store.execute("DELETE FROM experiments")
                if database == "postgresql":
                    uri = servers.enter_context(_postgresql())
                addresses[database] = servers.enter_context(_server(uri, folder))
            return addresses[database]

        yield address


@contextmanager
def _server(uri: str, folder: Path) -> Iterator[str]:
    port = find_free_port()
    command = warm_python.command("-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1")
    command += ["--artifacts-destination", str(folder / "artifacts"), "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PYTHONWARNINGS": "ignore"}
    log = folder / "log"
    with log.open("wb") as output, subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output,
                                                    start_new_session=True) as process:  # fmt: skip
        try:
            _wait(process, lambda: requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, 15)


@contextmanager
def _postgresql() -> Iterator[str]:
    """A PostgreSQL server of this test alone, on a socket in its folder and on no port. It refuses to run as root."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not programs:
        pytest.skip("postgresql is not installed in /usr/lib/postgresql")
    if os.geteuid() == 0 and not Path(os.devnull).stat().st_mode & 0o002:
        pytest.skip("/dev/null is closed to other users, and PostgreSQL needs it: chmod 666 /dev/null")
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    options = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    with TemporaryDirectory(prefix="fcos-", dir="/tmp") as name:  # other users can't enter pytest's folders
        folder = Path(name)
        if options:
            shutil.chown(folder, user)
        initdb = [programs[-1], "-D", folder / "data", "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-sync"]
        made = subprocess.run([*initdb, "--locale=C"], cwd="/", capture_output=True, text=True, **options)  # type: ignore[call-overload]
        assert made.returncode == 0, made.stderr
        serve = [programs[-1].with_name("postgres"), "-D", folder / "data", "-k", folder, "-c", "listen_addresses="]
        log = folder / "log"
        with (
            log.open("wb") as output,
            subprocess.Popen([*serve, "-F"], cwd="/", stdout=output, stderr=output, **options) as process,
        ):
            socket = folder / ".s.PGSQL.5432"
            try:
                _wait(process, socket.exists, log)
                yield f"postgresql+pg8000://mlflow@/postgres?unix_sock={socket}"
            finally:
                process.terminate()


def _wait(process: "subprocess.Popen[bytes]", ready: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if ready():
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.3)
    raise AssertionError(log.read_text())
