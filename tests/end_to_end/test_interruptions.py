"""Stages that are killed, disturbed or given invalid parameters: real `dvc` and signals in a clone of this project.

The tests share one project, in which every stage has run, and depend on their order.
"""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.projects import environment, run


@pytest.mark.parametrize("stage", ["download", "convert", "evaluate", "inspect"])  # train: see the next test
def test_a_killed_stage_succeeds_when_run_again(project: Path, stage: str) -> None:
    before = outputs(project, stage)
    running = start(project, "dvc", "repro", "-f", "-s", stage)
    kill_stage(stage, running)
    # --force: DVC would restore the result from its cache, and the files of the killed stage would stay.
    run(project, "dvc", "repro", "-f", "-s", stage)
    assert outputs(project, stage) == before
    assert not list(project.rglob("*.partial*"))


def test_training_resumes_after_any_signal_with_the_same_result(project: Path) -> None:
    """`kill -9`, SIGTERM, Ctrl-C: exit status, one line (except SIGKILL), one MLflow run, the same weights."""
    states = project / ".fcos/training"
    undisturbed = (project / "models/detector.safetensors").read_bytes()
    known = runs(project)
    for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)):
        running = start(project, sys.executable, "-m", "pipeline.stages.train")
        saved = {path.stat().st_ino for path in states.glob("*/state.pt")}
        while {path.stat().st_ino for path in states.glob("*/state.pt")} <= saved:
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(number)
        output, _ = running.communicate(timeout=240)
        assert running.returncode == status, output
        if number == signal.SIGKILL:
            continue
        line = rf"^train: stopped by {number.name} at step \d of 6; its state is saved: `dvc repro` resumes from it$"
        assert re.search(line, output.decode(), re.MULTILINE), output
        assert b"Traceback" not in output
        assert list(runs(project, known).values()) == ["KILLED"]
    run(project, "dvc", "repro", "-f", "-s", "train")  # --force: DVC has the result in its cache
    assert list(runs(project, known).values()) == ["FINISHED"]
    assert (project / "models/detector.safetensors").read_bytes() == undisturbed


def outputs(project: Path, stage: str) -> dict[str, str]:
    """The digest of each output of the stage, from dvc.lock."""
    locked = YAML(typ="safe").load((project / "dvc.lock").read_text())["stages"][stage]["outs"]
    return {out["path"]: out["md5"] for out in locked}


def runs(project: Path, known: Collection[str] = ()) -> dict[str, str]:
    """The status of each MLflow run, except of the known ones."""
    with closing(sqlite3.connect(project / "mlflow.db")) as store:
        rows = store.execute("SELECT run_uuid, status FROM runs").fetchall()
    return {name: status for name, status in rows if name not in known}


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_the_first_step_is_one_line(project: Path, number: signal.Signals, status: int) -> None:
    running = start(project, sys.executable, "-m", "pipeline.stages.train")
    while "torch" not in Path(f"/proc/{running.pid}/maps").read_text():  # it is being imported
        time.sleep(0.01)
    running.send_signal(number)
    output, _ = running.communicate(timeout=60)
    assert (running.returncode, output) == (status, f"train: stopped by {number.name}\n".encode())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can signal a process when its parent dies")
def test_training_saves_its_state_and_ends_when_dvc_dies(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHELL", "/bin/sh")  # DVC starts stages through the shell, and dash would stay as their parent
    params = project / "params.yaml"
    original = params.read_text()
    params.write_text(original.replace("  epochs: 2 ", "  epochs: 200 "))  # training can't end before DVC is killed
    shutil.rmtree(project / ".fcos/training", ignore_errors=True)
    running = start(project, "dvc", "repro", "-s", "train")
    while not list((project / ".fcos/training").glob("*/state.pt")):
        assert running.poll() is None
        time.sleep(0.01)
    running.kill()
    output, _ = running.communicate(timeout=240)
    params.write_text(original)
    assert b"train: stopped by SIGTERM at step" in output


def start(project: Path, *command: str) -> subprocess.Popen[bytes]:
    """Starts a command in a new process group."""
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_stage(stage: str, running: subprocess.Popen[bytes]) -> None:
    """Sends SIGKILL to the process of the stage one second after it started."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        command = ["pgrep", "-g", str(running.pid), "-f", f"stages.{stage}"]
        pids = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
        if pids:
            time.sleep(1)
            for pid in pids:
                with suppress(ProcessLookupError):  # the shell that started the stage ended with it
                    os.kill(int(pid), signal.SIGKILL)
            break
        time.sleep(0.05)
    running.communicate(timeout=240)


def test_parameters_changed_while_a_stage_runs_are_an_error_that_keeps_the_state(project: Path) -> None:
    """Otherwise DVC would record the changed parameters in dvc.lock."""
    params = project / "params.yaml"
    original, lock = params.read_text(), (project / "dvc.lock").read_bytes()
    shutil.rmtree(project / ".fcos/training", ignore_errors=True)
    running = start(project, "dvc", "repro", "-f", "-s", "train")
    while not list((project / ".fcos/training").glob("*/state.pt")):
        assert running.poll() is None
        time.sleep(0.02)
    params.write_text(original.replace("    flip: 0.0", "    flip: 0.5"))
    output, _ = running.communicate(timeout=240)
    assert running.returncode != 0
    assert b"train: params.yaml: train changed while this stage ran" in output
    assert (project / "dvc.lock").read_bytes() == lock
    assert b"undo the edit and run `dvc repro` to keep the result" in output
    assert list((project / ".fcos/training").glob("*/state.pt"))
    params.write_text(original)
    run(project, "dvc", "repro")


def test_an_invalid_parameter_is_one_line(project: Path) -> None:
    params = project / "params.yaml"
    original = params.read_text()
    params.write_text(original.replace("loss: iou", "loss: iuo"))
    output = run(project, "dvc", "repro", check=False)
    params.write_text(original)
    assert "loss is 'iuo', but should be 'iou', 'linear_iou', 'giou'" in output
    assert "Traceback" not in output
