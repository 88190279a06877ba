"""`dvc exp run --queue`: three experiments, two at a time, some of their processes killed; all three end right."""

import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests import projects
from tests.projects import run

# One trains alone and is killed, one in two processes of which one is killed; nobody disturbs the third.
EXPERIMENTS = {
    "alone": ("loss=giou",),
    "together": ("train.devices=2", "loss=linear_iou"),
    "undisturbed": ("loss=diou",),
}


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = projects.clone(tmp_path_factory.mktemp("queue"))
    params = project / "params.yaml"
    text = params.read_text().replace("  batch_size: 8 # images a step", "  batch_size: 4 # images a step")
    params.write_text(text.replace("  epochs: 2 ", "  epochs: 4 "))  # long enough to be killed in
    run(project, "dvc", "repro", "convert")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "converted")
    return project


def test_killed_experiments_of_a_queue_end_as_undisturbed_ones(queue: Path) -> None:
    for name in EXPERIMENTS:
        enqueue(queue, name)
    start(queue)
    try:
        kill(queue, "loss: giou", of_several=False)
        kill(queue, "loss: linear_iou", of_several=True)
        wait_for(queue, {"alone": "Failed", "together": "Success", "undisturbed": "Success"})
        run(queue, "dvc", "queue", "remove", "--failed")
        enqueue(queue, "alone")
        start(queue)
        wait_for(queue, {"alone": "Success"})
    finally:
        run(queue, "dvc", "queue", "stop", "--kill")
    results = {name: models(run(queue, "git", "show", f"{reference(queue, name)}:dvc.lock")) for name in EXPERIMENTS}
    assert len(set(results.values())) == 3
    for name, changes in EXPERIMENTS.items():
        settings = [part for change in changes for part in ("-S", change)]
        run(queue, "git", "checkout", "-q", "params.yaml", "dvc.lock")
        # By force: DVC would bring the result back from its cache.
        run(queue, "dvc", "exp", "run", "-n", f"{name}-again", "-f", "-s", *settings, "train")
        assert models((queue / "dvc.lock").read_text()) == results[name], name


def start(project: Path) -> None:
    """Two workers, which outlive the command and would hold its pipes open."""
    command = ["dvc", "queue", "start", "-j", "2"]
    silent = subprocess.DEVNULL
    subprocess.run(command, cwd=project, env=projects.environment(), stdout=silent, stderr=silent, check=True)


def enqueue(project: Path, name: str) -> None:
    settings = [part for change in EXPERIMENTS[name] for part in ("-S", change)]
    run(project, "dvc", "exp", "run", "--queue", "-n", name, *settings, "train")


def kill(project: Path, loss: str, *, of_several: bool) -> None:
    """`kill -9` for the training with this loss, once it has saved a state; or for one of its processes."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):
                command = (process / "cmdline").read_text().split("\0")[:-1]
                here = (process / "cwd").resolve()
                mine = "pipeline.stages.train" in command[1:3] and here.is_relative_to(project)
                if not mine or (len(command) > 3) != of_several:
                    continue
                if of_several and "RANK=1\0" not in (process / "environ").read_text():
                    continue
                key = command[3] if of_several else locked(process)
                saved = (project / ".fcos/training" / key / "state.pt").is_file()
                if saved and loss in (here / "params.yaml").read_text():
                    os.kill(int(process.name), signal.SIGKILL)
                    return
        time.sleep(0.05)
    raise AssertionError(f"no training with {loss} was seen to save a state")


def locked(process: Path) -> str:
    """The key of the training whose lock it holds."""
    files = [each.resolve() for each in (process / "fd").iterdir()]
    return next((file.stem for file in files if file.match(".fcos/training/*.lock")), "none")


def wait_for(project: Path, wanted: dict[str, str]) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        status = run(project, "dvc", "queue", "status")
        if all(re.search(rf"{name}\s.*{state}", status) for name, state in wanted.items()):
            return
        time.sleep(1)
    raise AssertionError(f"{wanted}\n{status}")


def reference(project: Path, name: str) -> str:
    listed = run(project, "git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    (found,) = (each for each in listed if each.endswith(f"/{name}"))
    return found


def models(lock: str) -> str:
    """The digest of what training made."""
    outputs = YAML(typ="safe").load(lock)["stages"]["train"]["outs"]
    return next(str(output["md5"]) for output in outputs if output["path"] == "models")
