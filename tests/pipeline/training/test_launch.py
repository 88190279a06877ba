"""One training in two real processes: what it does when one is killed or fails, and who may start it."""

import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import recipes
from pipeline.errors import PipelineError
from pipeline.training import launch as launching
from tests.support.projects import PROJECT


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)  # so that `python -m tests.support.distributed_training` is this one's


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of two processes that an outside torchrun started, on a machine each, as far as they can tell."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "1"),
        *("--local-addr", "127.0.0.1", "-m", "tests.support.distributed_training", str(folder)),
    ]
    nodes = [subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for node in nodes:
        _, said = node.communicate(timeout=120)
        assert node.returncode == 0, said
    weights: dict[str, torch.Tensor] = torch.load(folder / "weights.pt")
    return weights


def test_a_killed_process_is_started_again_and_all_ends_as_undisturbed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], undisturbed: dict[str, torch.Tensor]
) -> None:
    launching.launch("tests.support.distributed_training", str(tmp_path), "killed", count=2)
    said = "training process 1 was killed by SIGKILL; restarting all processes from the last saved state\n"
    assert capfd.readouterr().err == said
    ended_as(undisturbed, tmp_path)


def test_a_signal_to_the_launcher_saves_and_stops_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], undisturbed: dict[str, torch.Tensor]
) -> None:
    with pytest.raises(SystemExit) as ended:
        launching.launch("tests.support.distributed_training", str(tmp_path), "stopped", count=2)
    assert ended.value.code == 143
    assert (tmp_path / "state/state.pt").is_file()
    assert not (tmp_path / "weights.pt").exists()
    launching.launch("tests.support.distributed_training", str(tmp_path), "stopped", count=2)
    assert capfd.readouterr().err == ""
    ended_as(undisturbed, tmp_path)


def ended_as(undisturbed: dict[str, torch.Tensor], folder: Path) -> None:
    found = torch.load(folder / "weights.pt")
    assert found.keys() == undisturbed.keys()
    assert all(torch.equal(tensor, undisturbed[name]) for name, tensor in found.items())


def test_an_error_in_one_process_ends_all_processes_with_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error in a batch, then, in a second training of the same processes, an error in validation."""
    began = time.monotonic()
    (tmp_path / "image").mkdir()
    with pytest.raises(PipelineError, match=r"^c\.png: not an image$"):
        launching.launch("tests.support.distributed_training", str(tmp_path), "image", "validation", count=2)
    assert time.monotonic() - began < 60
    assert capfd.readouterr().err == ""
    assert (tmp_path / "image-1").read_text() == "PipelineError: b.png: not an image"
    assert (tmp_path / "image-0").read_text().startswith("PeerFailedError")


def test_images_of_a_step_are_shared_out_evenly_or_not_at_all() -> None:
    values = recipes.defaults()

    def processes(devices: Any, accumulate: int) -> int:
        train = replace(values.train, batch_size=8, accumulate=accumulate)
        machine = replace(values.machine, device="cpu", devices=devices)
        return launching.num_processes(replace(values, train=train, machine=machine))

    assert processes("auto", 1) == 1
    assert processes(4, 2) == 4
    said = r"batch_size is 8, .* 3 processes \(machine\.devices\) with 2 parts.*: set it to 12"
    with pytest.raises(PipelineError, match=said):
        processes(3, 2)
