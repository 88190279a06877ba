"""Child processes that end with the process that started them, however it ends."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.integrations import servers
from tests.support.process_trees import assert_gone, descendants

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL]
STARTER = """
import sys, time
from pipeline.integrations import servers

with servers.supervised(["sh", "-c", "sleep 60 & sleep 60"], {}):
    print("started", flush=True)
    time.sleep(60)
"""


@contextmanager
def start(code: str) -> Iterator["subprocess.Popen[str]"]:
    """Runs a script, from its first printed line until the test leaves the block, where it is killed."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def processes_of(starter: "subprocess.Popen[str]", count: int) -> list[psutil.Process]:
    """All processes that it has started, once there are as many as expected."""
    while len(processes := descendants(starter.pid)) != count:
        assert starter.poll() is None
        time.sleep(0.02)
    return processes


@pytest.mark.parametrize("number", SIGNALS)
def test_a_server_ends_with_all_its_processes_when_its_starter_ends(number: signal.Signals) -> None:
    with start(STARTER) as starter:
        processes = processes_of(starter, 5)  # the supervisor, its guard, the shell, two sleeping processes
        starter.send_signal(number)
        starter.communicate(timeout=30)
    assert_gone(processes)


def test_a_server_ends_with_all_its_processes_when_its_supervisor_is_killed() -> None:
    """The shell ends without stopping the process that it has started, which is no child of the supervisor."""
    with start(STARTER.replace("sleep 60 & sleep 60", "sleep 60 & wait")) as starter:
        processes = processes_of(starter, 4)
        processes[0].kill()
        assert_gone(processes)


def test_a_server_ends_when_supervisor_and_guard_are_killed() -> None:
    with start(STARTER.replace("sleep 60 & sleep 60", "exec sleep 60")) as starter:
        processes = processes_of(starter, 3)
        # A process that has just been forked still has the name of its parent process.
        while not (server := [process for process in processes if process.name() == "sleep"]):
            assert starter.poll() is None
            time.sleep(0.02)
        for process in set(processes).difference(server):
            process.kill()
        assert_gone(processes)


SLOW_SUPERVISOR = """
import os, signal, sys, time
from pipeline.integrations import supervisor

die_with = supervisor._die_with

def slow(pid):
    {before}
    die_with(pid)
    {after}

supervisor._die_with = slow
read, write = os.pipe()
print("started", flush=True)
supervisor.main(str(read), "sleep", "60")
"""


@pytest.mark.parametrize("order", [("time.sleep(0.5)", ""), ("", "time.sleep(0.5)")], ids=["before", "after"])
def test_a_supervisor_killed_while_the_server_starts(order: tuple[str, str]) -> None:
    with start(SLOW_SUPERVISOR.format(before=order[0], after=order[1])) as supervisor:
        processes = processes_of(supervisor, 2)
        time.sleep(0.2)  # in the middle of the half second
        supervisor.kill()
        assert_gone(processes)


def test_a_server_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    supervisor = tmp_path / "supervisor.py"
    source = Path(servers.SUPERVISOR[-1]).read_text()
    supervisor.write_text(source.replace("STOP_SECONDS = 10.0", "STOP_SECONDS = 0.1"))
    monkeypatch.setattr(servers, "SUPERVISOR", (*servers.SUPERVISOR[:-1], str(supervisor)))
    ignoring = ["sh", "-c", "trap '' TERM; echo ready; while true; do sleep 0.05; done"]
    with servers.supervised(ignoring, {}, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        processes = descendants(process.pid)
    assert_gone(processes)


def test_the_status_and_the_output_of_a_supervised_command() -> None:
    command = ["sh", "-c", 'read line; echo "$line $VARIABLE"; exit 3']
    with servers.supervised(
        command, {"VARIABLE": "value"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.communicate("line\n") == ("line value\n", None)
    assert process.returncode == 3
