"""What signals and a full disk do to a stage: a line, and the exit status that is theirs."""

import signal
import subprocess
import sys
import time

import pytest

WORKING = """
import sys, time
from pipeline import process, runner

def working():
    print("working", flush=True)
    return True

{before}
{body}
"""
LOOP = "while working(): time.sleep(60)"
ASKED = """
request = process.StopRequest()
with request.deferred():
    {work}
process.exit_stopped("train", request.number, " at its end")
"""


def begin(before: str, body: str) -> subprocess.Popen[str]:
    started = subprocess.Popen(
        [sys.executable, "-c", WORKING.format(before=before, body=body)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert started.stdout
    assert started.stdout.readline() == "working\n"
    return started


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_stage_with_one_line(number: signal.Signals, status: int) -> None:
    started = begin("process.handle_signals('convert')", LOOP)
    started.send_signal(number)
    _, told = started.communicate(timeout=20)
    assert (started.returncode, told) == (status, f"convert: stopped by {number.name}\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stage_that_asked_for_time_ends_its_work_first(number: signal.Signals, status: int) -> None:
    started = begin(
        "process.handle_signals('train')", ASKED.format(work="working()\n    while not request(): time.sleep(0.01)")
    )
    started.send_signal(number)
    _, told = started.communicate(timeout=20)
    assert (started.returncode, told) == (status, f"train: stopped by {number.name} at its end\n")


def test_a_second_ctrl_c_ends_it_at_once_but_not_one_key_that_comes_twice() -> None:
    started = begin("process.handle_signals('train')", ASKED.format(work=LOOP))
    for _ in range(2):
        started.send_signal(signal.SIGINT)
        time.sleep(0.2)
    started.send_signal(signal.SIGTERM)  # as whoever started it sends
    time.sleep(0.2)
    assert started.poll() is None
    time.sleep(1)
    started.send_signal(signal.SIGINT)
    _, told = started.communicate(timeout=20)
    assert (started.returncode, told) == (130, "")


def test_a_full_disk_is_one_line() -> None:
    body = (
        "working()\n"
        "def body(values): raise OSError(28, 'No space left on device', 'models/x')\n"
        "from pipeline import params\n"
        "runner.run_stage('convert', body)"
    )
    started = begin("", body)
    _, told = started.communicate(timeout=20)
    assert started.returncode == 1
    assert told == "convert: models/x: No space left on device; make room, and run `dvc repro` again\n"
