"""`dvc exp run --queue`: of two experiments at a time, one is killed and queued again; both results are correct."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from tests.support import held_training, projects
from tests.support.projects import run

# The first is killed. tests/pipeline/training/test_launch.py kills one process of several.
LOSSES = {"killed": "giou", "other": "diou"}


@pytest.fixture(scope="module")
def queue(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = projects.copy(reproduced, tmp_path_factory.mktemp("queue"))
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "reproduced")
    return project


def test_a_killed_experiment_queued_again_has_the_same_result(queue: Path, tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    settings = held_training.environment(tmp_path / "bin", hold)
    for name in LOSSES:
        enqueue(queue, name)
    hold.touch()
    start(queue, settings)
    try:
        kill(queue, "loss: giou")
        hold.unlink()
        wait_for(queue, "other")
        assert re.search(r"killed\s.*Failed", run(queue, "dvc", "queue", "status"))
        run(queue, "dvc", "queue", "remove", "--failed")
        stop_workers(queue)
        enqueue(queue, "killed")
        start(queue, settings)
        wait_for(queue, "killed")
    finally:
        run(queue, "dvc", "queue", "stop", "--kill")
    results = {name: models(run(queue, "git", "show", f"{reference(queue, name)}:dvc.lock")) for name in LOSSES}
    assert results["killed"] != results["other"]
    params = queue / "params.yaml"
    params.write_text(params.read_text().replace("loss: iou", "loss: giou"))
    run(queue, "dvc", "repro", "-f", "-s", "train")  # --force: DVC would restore the result from its cache
    assert models((queue / "dvc.lock").read_text()) == results["killed"]


def start(project: Path, settings: Mapping[str, str]) -> None:
    """Starts two workers, which outlive the command and would keep its pipes open."""
    command, null = ["dvc", "queue", "start", "-j", "2"], subprocess.DEVNULL
    subprocess.run(command, cwd=project, env=settings, stdout=null, stderr=null, check=True)


def stop_workers(project: Path) -> None:
    """Stops the workers, now idle. Else one that is about to end by itself could take a new experiment and lose it."""
    run(project, "dvc", "queue", "stop")
    deadline = time.monotonic() + 120
    while workers := [process for process in psutil.process_iter(["cmdline", "cwd"]) if is_worker(process, project)]:
        assert time.monotonic() < deadline, workers
        time.sleep(0.2)


def is_worker(process: psutil.Process, project: Path) -> bool:
    command, folder = process.info["cmdline"] or (), Path(process.info["cwd"] or "/")
    return "queue-worker" in command and folder.is_relative_to(project)


def enqueue(project: Path, name: str) -> None:
    run(project, "dvc", "exp", "run", "--queue", "-n", name, "-S", f"loss={LOSSES[name]}", "train")


def kill(project: Path, loss: str) -> None:
    """Sends SIGKILL to the training with this loss once it has saved a state."""
    deadline, states = time.monotonic() + 240, project / ".fcos/training"
    while time.monotonic() < deadline:
        # Looking at all processes takes time from the training.
        for process in Path("/proc").glob("[0-9]*") if any(states.glob("*/state.pt")) else ():
            with suppress(OSError, IndexError):
                workspace = (process / "cwd").resolve()
                if not workspace.is_relative_to(project):
                    continue
                saved = (project / ".fcos/training" / training_key(process) / "state.pt").is_file()
                if saved and loss in (workspace / "params.yaml").read_text():
                    os.kill(int(process.name), signal.SIGKILL)
                    return
        time.sleep(0.05)
    raise AssertionError(f"no training with {loss} saved a state")


def training_key(process: Path) -> str:
    """The key of the training whose lock the process holds; "none" if it isn't a training."""
    files = [descriptor.resolve() for descriptor in (process / "fd").iterdir()]
    return next((file.stem for file in files if file.match(".fcos/training/*.lock")), "none")


def wait_for(project: Path, *names: str) -> None:
    """Waits until the experiments have succeeded. `dvc queue status` in a loop would occupy a core."""
    deadline = time.monotonic() + 300
    while not all(reference(project, name) for name in names):
        assert time.monotonic() < deadline, run(project, "dvc", "queue", "status")
        time.sleep(0.5)


def reference(project: Path, name: str) -> str | None:
    references = run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return next((reference for reference in references if reference.endswith(f"/{name}")), None)


def models(lock: str) -> str:
    """The digest of the folder models in a dvc.lock."""
    outputs = YAML(typ="safe").load(lock)["stages"]["train"]["outs"]
    return next(str(output["md5"]) for output in outputs if output["path"] == "models")
