"""`dvc exp run --queue`: three experiments, two at a time, one killed and queued again; all three end right."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support import projects
from tests.support.projects import run

# The first is killed. What becomes of a killed process of several: tests/pipeline/training/test_launch.py.
LOSSES = {"killed": "giou", "second": "linear_iou", "third": "diou"}


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = projects.clone(tmp_path_factory.mktemp("queue"))
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("  epochs: 2 ", "  epochs: 6 "))  # long enough to be killed in
    run(project, "dvc", "repro", "convert")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "converted")
    return project


def test_a_killed_experiment_of_a_queue_ends_as_an_undisturbed_one(queue: Path) -> None:
    for name in LOSSES:
        enqueue(queue, name)
    start(queue)
    try:
        kill(queue, "loss: giou")
        wait_for(queue, "second", "third")
        assert re.search(r"killed\s.*Failed", run(queue, "dvc", "queue", "status"))
        run(queue, "dvc", "queue", "remove", "--failed")
        enqueue(queue, "killed")
        start(queue)
        wait_for(queue, "killed")
    finally:
        run(queue, "dvc", "queue", "stop", "--kill")
    results = {name: models(run(queue, "git", "show", f"{reference(queue, name)}:dvc.lock")) for name in LOSSES}
    assert len(set(results.values())) == 3
    # By force: DVC would bring the result back from its cache.
    run(queue, "dvc", "exp", "run", "-f", "-s", "-S", "loss=giou", "train")
    assert models((queue / "dvc.lock").read_text()) == results["killed"]


def start(project: Path) -> None:
    """Two workers, which outlive the command and would hold its pipes open."""
    command = ["dvc", "queue", "start", "-j", "2"]
    silent = subprocess.DEVNULL
    subprocess.run(command, cwd=project, env=projects.environment(), stdout=silent, stderr=silent, check=True)


def enqueue(project: Path, name: str) -> None:
    run(project, "dvc", "exp", "run", "--queue", "-n", name, "-S", f"loss={LOSSES[name]}", "train")


def kill(project: Path, loss: str) -> None:
    """`kill -9` for the training with this loss, once it has saved a state."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                command = (process / "cmdline").read_text().split("\0")
                here = (process / "cwd").resolve()
                if "pipeline.stages.train" not in command[1:3] or not here.is_relative_to(project):
                    continue
                saved = (project / ".fcos/training" / locked(process) / "state.pt").is_file()
                if saved and loss in (here / "params.yaml").read_text():
                    os.kill(int(process.name), signal.SIGKILL)
                    return
        time.sleep(0.05)
    raise AssertionError(f"no training with {loss} was seen to save a state")


def locked(process: Path) -> str:
    """The key of the training whose lock it holds."""
    files = [each.resolve() for each in (process / "fd").iterdir()]
    return next((file.stem for file in files if file.match(".fcos/training/*.lock")), "none")


def wait_for(project: Path, *names: str) -> None:
    """Until each has ended well. `dvc queue status` in a loop would take a core from them."""
    deadline = time.monotonic() + 300
    while not all(reference(project, name) for name in names):
        assert time.monotonic() < deadline, run(project, "dvc", "queue", "status")
        time.sleep(0.5)


def reference(project: Path, name: str) -> str | None:
    listed = run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    return next((each for each in listed if each.endswith(f"/{name}")), None)


def models(lock: str) -> str:
    """The digest of what training made."""
    outputs = YAML(typ="safe").load(lock)["stages"]["train"]["outs"]
    return next(str(output["md5"]) for output in outputs if output["path"] == "models")
