"""Stages that are killed, disturbed or given invalid parameters: real `dvc` and signals in a clone of this project.

The tests share one project, in which every stage has run, and depend on their order.
"""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from tests.support import held_training
from tests.support.projects import environment, read, run


@pytest.mark.parametrize("stage", ["download", "convert", "evaluate", "inspect"])  # train: see the next test
def test_a_killed_stage_succeeds_when_run_again(project: Path, stage: str) -> None:
    params = project / "params.yaml"
    original = params.read_text()
    params.write_text(original.replace("  fiftyone: false", "  fiftyone: true"))  # inspect is killed while it fills it
    before, errors = outputs(project, stage), read(project, "metrics/inspect.json")["errors"]
    running = start(project, "dvc", "repro", "-f", "-s", stage, settings=environment())
    kill_stage(stage, project, running)
    # --force: DVC would restore the result from its cache, and the files of the killed stage would stay.
    run(project, "dvc", "repro", "-f", "-s", stage)
    params.write_text(original)
    after, counts = outputs(project, stage), read(project, "metrics/inspect.json")
    if stage == "inspect":
        assert before.pop("metrics/inspect.json") != after.pop("metrics/inspect.json")  # now with the views
        assert counts["views"]["missed_objects"] > 0
    assert (after, counts["errors"]) == (before, errors)
    assert not list(project.rglob("*.partial*"))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can signal a process when its parent dies")
def test_a_training_stopped_again_and_again_has_the_same_result(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by `kill -9`, Ctrl-C, and the death of DVC, it resumes each time, in one MLflow run.

    Then a parameter changes while it runs: DVC would record the new value for the old result. The state remains until
    `dvc repro` ends with the edit undone.
    """
    monkeypatch.setenv("SHELL", "/bin/sh")  # DVC starts stages through the shell, and dash would stay as their parent
    undisturbed = (project / "models/detector.safetensors").read_bytes()
    known, stage, repro = (
        runs(project),
        ["python", "-m", "pipeline.stages.train"],
        ["dvc", "repro", "-f", "-s", "train"],
    )
    with held(project, *stage) as training:
        training.kill()
    assert finish(training)[0] == -9
    stopped = r"(?m)^train: stopped by {} at step \d of 6; its state is saved: `dvc repro` resumes from it$"
    with held(project, *stage) as training:
        training.send_signal(signal.SIGINT)
    status, output = finish(training)
    assert status == 130
    assert re.search(stopped.format("SIGINT"), output), output
    assert "Traceback" not in output
    assert list(runs(project, known).values()) == ["KILLED"]
    with held(project, *repro, warm=False) as dvc:
        dvc.kill()
        dvc.wait()
    _, output = finish(dvc)
    assert re.search(stopped.format("SIGTERM"), output), output
    assert "Traceback" not in output
    params = project / "params.yaml"
    original, lock = params.read_text(), (project / "dvc.lock").read_bytes()
    changed = original.replace("    flip: 0.0", "    flip: 0.5")
    assert changed != original
    with held(project, *repro) as dvc:
        params.write_text(changed)
    status, output = finish(dvc)
    assert status != 0
    assert "train: params.yaml: train changed while this stage ran" in output
    assert "undo the edit and run `dvc repro` to keep the result" in output
    assert (project / "dvc.lock").read_bytes() == lock
    assert list((project / ".fcos/training").glob("*/state.pt"))
    params.write_text(original)
    run(project, *repro)
    assert list(runs(project, known).values()) == ["FINISHED"]
    assert (project / "models/detector.safetensors").read_bytes() == undisturbed


@contextmanager
def held(project: Path, *command: str, warm: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a training, which waits after the first state that it saves as long as the context lasts."""
    with tempfile.TemporaryDirectory() as folder:
        hold, started, deadline = Path(folder, "hold"), time.time_ns(), time.monotonic() + 120
        hold.touch()
        running = start(project, *command, settings=held_training.environment(Path(folder, "bin"), hold, warm=warm))
        while not any(file.stat().st_mtime_ns > started for file in project.glob(".fcos/training/*/state.pt")):
            assert running.poll() is None, finish(running)
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield running


def finish(running: subprocess.Popen[bytes]) -> tuple[int, str]:
    """The exit status of a command and its output, once everything that it started has ended."""
    output, _ = running.communicate(timeout=240)
    return running.returncode, output.decode()


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
    running = start(project, sys.executable, "-m", "pipeline.stages.train", settings=environment(warm=False))
    while "torch" not in Path(f"/proc/{running.pid}/maps").read_text():  # it is being imported
        time.sleep(0.01)
    running.send_signal(number)
    assert finish(running) == (status, f"train: stopped by {number.name}\n")


def start(project: Path, *command: str, settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Starts a command in a new process group."""
    return subprocess.Popen(
        [shutil.which(command[0], path=settings["PATH"]) or command[0], *command[1:]],
        cwd=project,
        env=settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_stage(stage: str, project: Path, running: subprocess.Popen[bytes]) -> None:
    """Sends SIGKILL to the process of the stage half a second after it started."""
    deadline = time.monotonic() + 120
    while not (processes := processes_of(stage, project)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # the shell that started the stage ended with it
            process.kill()
    finish(running)


def processes_of(stage: str, project: Path) -> list[psutil.Process]:
    running = psutil.process_iter(["cmdline", "cwd"])
    return [
        process
        for process in running
        if process.info["cwd"] == str(project) and f"pipeline.stages.{stage}" in " ".join(process.info["cmdline"] or ())
    ]


def test_an_invalid_parameter_is_one_line(project: Path) -> None:
    params = project / "params.yaml"
    original = params.read_text()
    params.write_text(original.replace("loss: iou", "loss: iuo"))
    output = run(project, "dvc", "repro", check=False)
    params.write_text(original)
    assert "loss is 'iuo', but should be 'iou', 'linear_iou', 'giou'" in output
    assert "Traceback" not in output
