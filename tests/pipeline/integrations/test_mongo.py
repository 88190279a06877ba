"""The MongoDB server that processes share, start, stop and kill."""

import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from pymongo import MongoClient

from pipeline.errors import PipelineError
from pipeline.integrations import mongo, servers
from pipeline.workspace import state_dir
from tests.support.paths import PROJECT
from tests.support.process_trees import assert_gone

USER = "from pipeline.integrations import mongo\nwith mongo.server() as uri: print(uri, flush=True); input()"

pytestmark = pytest.mark.usefixtures("inspected")


def mongod_processes() -> list[psutil.Process]:
    """The mongod processes that serve the database of this test."""
    folder, processes = str(state_dir() / "mongo"), []
    for process in psutil.process_iter():
        try:
            if process.name() == "mongod" and folder in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                processes.append(process)
        except psutil.Error:
            continue
    return processes


@contextmanager
def database_user() -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A process that uses the database until it reads a line, and the URI."""
    with subprocess.Popen(
        [sys.executable, "-c", USER],
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


def insert(uri: str, count: int) -> None:
    with MongoClient[dict[str, Any]](uri) as client:
        client["fiftyone"]["samples"].insert_many([{"number": number} for number in range(count)])


def test_the_server_listens_only_on_a_private_socket_and_stops_with_its_last_user() -> None:
    with mongo.server() as uri:
        (process,) = mongod_processes()
        assert process.net_connections("inet") == []
        (socket,) = {Path(item.laddr) for item in process.net_connections("unix") if item.laddr}
        assert uri == "mongodb://" + str(socket).replace("/", "%2F")
        assert (socket.stat().st_mode & 0o777, socket.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        with mongo.server() as second:
            assert second == uri
        assert mongod_processes() == [process]  # the outer user still needs the server
        insert(uri, 3)
    assert mongod_processes() == []
    assert not socket.parent.exists()
    with mongo.server() as uri, MongoClient[dict[str, Any]](uri) as client:
        assert client["fiftyone"]["samples"].count_documents({}) == 3


def test_two_projects_at_once_have_a_database_each(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mongo.server() as uri:
        insert(uri, 3)
        with monkeypatch.context() as elsewhere:
            other = tmp_path_factory.mktemp("other")
            (other / "dvc.yaml").touch()
            elsewhere.chdir(other)
            with mongo.server() as other_uri, MongoClient[dict[str, Any]](other_uri) as client:
                assert other_uri != uri
                assert client["fiftyone"]["samples"].count_documents({}) == 0
                insert(other_uri, 5)
            assert mongod_processes() == []
        insert(uri, 1)  # the end of the other server is not that of this one
        with MongoClient[dict[str, Any]](uri) as client:
            assert client["fiftyone"]["samples"].count_documents({}) == 4


@pytest.mark.parametrize("killed", [False, True])
def test_the_process_that_started_the_server_can_leave_first(killed: bool) -> None:
    with database_user() as (starter, uri), mongo.server() as shared_uri:
        assert shared_uri == uri
        if killed:
            os.killpg(starter.pid, signal.SIGKILL)
        starter.communicate("\n", timeout=30)
        insert(shared_uri, 1)
    assert mongod_processes() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_terminated_user_stops_the_server(number: signal.Signals) -> None:
    with database_user() as (user, _):
        assert len(mongod_processes()) == 1
        user.send_signal(number)
        assert user.wait(30) != 0
    assert mongod_processes() == []


def test_the_server_stops_when_its_last_user_is_killed() -> None:
    with database_user() as (first, uri), database_user() as (second, second_uri):
        assert second_uri == uri
        (process,) = mongod_processes()
        first.kill()
        first.wait()
        insert(uri, 3)
        second.kill()
    assert_gone([process])
    assert (state_dir() / "mongo/mongod.lock").stat().st_size == 0  # it was shut down, not killed
    with mongo.server() as uri, MongoClient[dict[str, Any]](uri) as client:
        assert client["fiftyone"]["samples"].count_documents({}) == 3


def test_a_user_that_comes_while_the_server_stops_has_a_server() -> None:
    with database_user() as (killed, _):
        killed.kill()
        killed.wait()
        with mongo.server() as uri:
            insert(uri, 1)
            assert len(mongod_processes()) == 1
    assert mongod_processes() == []


def test_data_and_counts_survive_a_kill_of_all_processes() -> None:
    code = """from pipeline.integrations import mongo
from pymongo import MongoClient
with mongo.server() as uri:
    client = MongoClient(uri)
    client["fiftyone"]["samples"].insert_many([{"number": n} for n in range(5000)])
    client.admin.command("fsync")
    client["fiftyone"]["samples"].insert_many([{"number": n} for n in range(3000)], session=None)
    print(uri, flush=True)
    input()"""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        assert user.stdout is not None
        old = user.stdout.readline().strip()
        (process,) = mongod_processes()
        time.sleep(0.3)  # the journal is written every 100 ms
        process.kill()
        user.kill()
    assert_gone([process])
    assert (state_dir() / "mongo/mongod.lock").stat().st_size > 0
    socket = Path((state_dir() / "mongo/socket").read_text().strip())
    assert old == "mongodb://" + str(socket).replace("/", "%2F")
    abandoned = socket.parent
    assert abandoned.is_dir()
    with mongo.server() as uri, MongoClient[dict[str, Any]](uri) as client:
        samples = client["fiftyone"]["samples"]
        assert samples.estimated_document_count() == samples.count_documents({}) == 8000
        assert not abandoned.exists()
    assert mongod_processes() == []


def test_a_socket_in_a_folder_that_others_can_write_to_is_not_used() -> None:
    with mongo.server() as uri:
        folder = state_dir() / "mongo"
        socket = Path((folder / "socket").read_text().strip())
        assert mongo.running_uri(folder) == uri
        for mode in (0o770, 0o707):
            socket.parent.chmod(mode)
            assert mongo.running_uri(folder) is None
        socket.parent.chmod(0o700)
        moved = socket.parent.rename(f"{socket.parent}-moved")
        socket.parent.symlink_to(moved)  # as another user could do it after the folder's removal
        assert mongo.running_uri(folder) is None
        socket.parent.unlink()
        moved.rename(socket.parent)


def test_a_database_set_by_the_user_has_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    with mongo.server() as uri:
        monkeypatch.setenv("FIFTYONE_DATABASE_URI", uri)
        with mongo.server() as used_uri:
            assert used_uri == uri
        monkeypatch.delenv("FIFTYONE_DATABASE_URI")
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", uri)
    with pytest.raises(PipelineError, match="no answer"), mongo.server():
        pass
    assert mongod_processes() == []


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("mongodb://[::1", "not the address of a database: an IPv6 address literal must be enclosed in"),
        ("mongodb://127.0.0.1:99999", "not the address of a database: Port must be an integer between 0 and 65535"),
        ("mongodb://127.0.0.1:abc", "not the address of a database: Port contains non-digit characters"),
        ("mongodb://127.0.0.1:1\\n2", "not the address of a database: Port contains"),
        ("http://127.0.0.1", "not the address of a database: Invalid URI scheme"),
        ("mongodb://127.0.0.1:1/?tls=true&tlsCAFile=/no/file", "not the address of a database: [Errno 2] No such file"),
        ("mongodb://", "not the address of a database: "),
    ],
)
def test_a_garbled_address_is_one_line(monkeypatch: pytest.MonkeyPatch, uri: str, problem: str) -> None:
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", uri)
    with pytest.raises(PipelineError) as caught, mongo.server():
        pass
    assert str(caught.value).startswith(f"FIFTYONE_DATABASE_URI={uri}: {problem}")
    assert str(caught.value).endswith("; correct it, as in mongodb://127.0.0.1:27017; or unset the variable")


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_DATABASE_URI", "mongodb://me:secret@[::1")
    with pytest.raises(PipelineError, match="FIFTYONE_DATABASE_URI=mongodb://…@") as caught, mongo.server():
        pass
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xfe", b"/etc/passwd\n", b"a\0b", b"x" * 5000, b"{mine}", b"/tmp/fcos-x/../y"]
)
def test_a_garbled_record_of_the_socket_removes_no_other_file(tmp_path: Path, content: bytes) -> None:
    mine = tmp_path / "private/mine.txt"
    mine.parent.mkdir(mode=0o700)
    mine.write_text("precious")
    folder = tmp_path / "mongo"
    folder.mkdir()
    (folder / "socket").write_bytes(content.replace(b"{mine}", str(mine).encode()))
    assert mongo._recorded_socket(folder) is None
    mongo._remove_socket(folder)
    assert mine.read_text() == "precious"
    assert list(folder.iterdir()) == []


def test_sockets_that_killed_servers_left_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a socket on which a server listens, nor the folder of a server that is starting, nor other files."""
    monkeypatch.setattr(mongo, "SOCKET_FOLDER", f"fcos-test-{os.getpid()}-")
    folders = {name: Path(f"/tmp/{mongo.SOCKET_FOLDER}{name}") for name in ("dead", "empty", "live", "new", "other")}
    with socket.socket(socket.AF_UNIX) as dead, socket.socket(socket.AF_UNIX) as live:
        for folder in folders.values():
            folder.mkdir(mode=0o700)
        dead.bind(str(folders["dead"] / "mongod.sock"))
        dead.close()
        live.bind(str(folders["live"] / "mongod.sock"))
        live.listen()
        (folders["other"] / "notes.txt").touch()
        try:
            for name in ("dead", "empty", "live", "other"):
                os.utime(folders[name], (0, 0))
            mongo._remove_abandoned_sockets()
            assert [name for name, folder in folders.items() if folder.exists()] == ["live", "new", "other"]
            assert (folders["live"] / "mongod.sock").is_socket()
        finally:
            for folder in folders.values():
                shutil.rmtree(folder, ignore_errors=True)


def test_mongod_is_found() -> None:
    assert os.access(mongo.find_mongod(), os.X_OK)


def test_mongod_runs_with_the_libcurl_of_pycurl() -> None:
    mongod = mongo.find_mongod()
    environment = mongo.with_bundled_curl(dict(os.environ))
    libraries = subprocess.run(["ldd", mongod], env=environment, capture_output=True, text=True, check=True).stdout
    (curl,) = (line for line in libraries.splitlines() if "libcurl.so.4 =>" in line)
    assert str(state_dir() / "lib/libcurl.so.4") in curl
    assert "not found" not in libraries
    # Loading the library is not enough: the server must also start.
    data = state_dir() / "elsewhere"
    data.mkdir()
    command = [
        mongod,
        "--dbpath",
        data,
        "--port",
        str(servers.find_free_port()),
        "--nounixsocket",
        "--logpath",
        data / "log",
        "--fork",
    ]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    subprocess.run([mongod, "--dbpath", data, "--shutdown"], env=environment, check=True, capture_output=True)


def test_a_mongod_without_a_library_gives_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "mongod"
    broken.write_text("#!/bin/sh\necho 'mongod: libwhat.so.1: cannot open shared object file' >&2\nexit 127\n")
    broken.chmod(0o755)
    with pytest.raises(PipelineError, match=r"libwhat\.so\.1: cannot open.*; Debian, Ubuntu: apt-get install libcurl4"):
        mongo.mongod_environment(broken)


def test_fiftyone_is_imported_without_the_databricks_sdk() -> None:
    with mock.patch.dict(sys.modules):  # restores the modules
        sys.modules.pop("databricks.sdk", None)
        mongo.shorten_fiftyone_import()
        with pytest.raises(ImportError):
            importlib.import_module("databricks.sdk")
