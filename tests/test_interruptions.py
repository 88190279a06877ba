"""Stages that are killed, disturbed or given nonsense: real `dvc`, real signals, in a clone of this project.

The tests share one project and build on each other, in order.
"""

import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.projects import environment, run


@pytest.mark.parametrize("stage", ["download", "convert", "train", "evaluate", "inspect"])
def test_a_killed_stage_ends_well_when_run_again(project: Path, stage: str) -> None:
    run(project, "git", "checkout", "-q", "params.yaml")
    run(project, "dvc", "repro")
    before = (project / "models/detector.safetensors").read_bytes()
    shutil.rmtree(project / ".fcos/training", ignore_errors=True)
    running = start(project, "dvc", "repro", "-f", "-s", stage)
    kill_when_at_work(project, stage, running)
    # By force: DVC could bring the result back from its cache, and what the killed stage left would stay.
    run(project, "dvc", "repro", "-f", "-s", stage)
    run(project, "dvc", "repro")
    assert (project / "models/detector.safetensors").read_bytes() == before
    assert not list(project.rglob("*.partial*"))


def test_a_killed_training_goes_on_and_ends_as_if_undisturbed(project: Path) -> None:
    params, states = project / "params.yaml", project / ".fcos/training"
    original = params.read_text()
    params.write_text(original.replace("seed: 0", "seed: 1"))  # DVC has no result of it to fall back on
    shutil.rmtree(states, ignore_errors=True)
    running = start(project, "dvc", "repro", "-s", "train")
    kill_when_at_work(project, "train", running)
    (left,) = states.glob("*/state.pt")
    run(project, "dvc", "repro", "-s", "train")
    assert not left.exists()
    resumed = (project / "models/detector.safetensors").read_bytes()
    run(project, "dvc", "repro", "-f", "-s", "train")
    assert (project / "models/detector.safetensors").read_bytes() == resumed
    params.write_text(original)
    run(project, "dvc", "repro")


def start(project: Path, *command: str) -> subprocess.Popen[bytes]:
    """Starts a command in a process group of its own."""
    return subprocess.Popen(
        command,
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def kill_when_at_work(project: Path, stage: str, running: subprocess.Popen[bytes]) -> None:
    """`kill -9` for the stage's own process, a moment after it has begun to work (in training: after a saved state)."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = subprocess.run(
            ["pgrep", "-g", str(running.pid), "-f", f"stages.{stage}"], capture_output=True, text=True
        )
        saved = list((project / ".fcos/training").glob("*/state.pt")) if stage == "train" else [project]
        if found.stdout and saved:
            time.sleep(0 if stage == "train" else 1)
            for pid in found.stdout.split():
                with suppress(ProcessLookupError):  # the shell around it went with it
                    os.kill(int(pid), signal.SIGKILL)
            break
        time.sleep(0.05)
    running.communicate(timeout=120)


def test_parameters_changed_while_a_stage_runs_are_told(project: Path) -> None:
    """DVC would write a lock that lies."""
    params = project / "params.yaml"
    original = params.read_text()
    shutil.rmtree(project / ".fcos/training", ignore_errors=True)
    running = start(project, "dvc", "repro", "-f", "-s", "train")
    while not list((project / ".fcos/training").glob("*/state.pt")):
        assert running.poll() is None
        time.sleep(0.02)
    params.write_text(original.replace("    flip: 0.0", "    flip: 0.5"))
    output, _ = running.communicate(timeout=120)
    assert running.returncode != 0
    assert b"train: params.yaml: train changed while this stage ran" in output
    params.write_text(original)
    run(project, "dvc", "repro")


def test_an_impossible_parameter_is_one_line(project: Path) -> None:
    params = project / "params.yaml"
    original = params.read_text()
    params.write_text(original.replace("loss: iou", "loss: iuo"))
    output = run(project, "dvc", "repro", check=False)
    params.write_text(original)
    assert "loss is 'iuo', but should be 'iou', 'linear_iou', 'giou'" in output
    assert "Traceback" not in output
