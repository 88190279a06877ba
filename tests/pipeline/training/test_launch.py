"""One training in two processes: restarts after a kill, signals, errors, and an external launcher."""

import json
import signal
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
from tests.support import warm_python
from tests.support.listening import loopback_only
from tests.support.paths import PROJECT


@pytest.fixture(autouse=True)
def run_in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)  # `python -m tests.support.distributed_training` finds its module here


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes need not import torch."""
    monkeypatch.setattr(sys, "executable", warm_python.command()[0])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights of an uninterrupted training in two processes, started by two torchrun commands as on two machines."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    command = [
        *warm_python.command("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--master-addr", "127.0.0.1", "--master-port", str(port)),
    ]
    module = ("--no-python", *warm_python.command("-m", "tests.support.distributed_training", str(folder)))
    nodes = [
        subprocess.Popen([*command, "--node-rank", rank, *module], cwd=PROJECT, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    ]
    for node in nodes:
        _, errors = node.communicate(timeout=120)
        assert node.returncode == 0, errors
    weights: dict[str, torch.Tensor] = torch.load(folder / "weights.pt")
    return weights


@pytest.mark.usefixtures("warm")
def test_after_a_kill_and_a_signal_to_the_launcher_the_weights_are_the_same(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], uninterrupted: dict[str, torch.Tensor]
) -> None:
    """After the kill of one process, all restart. After the signal, the state is saved and all processes end."""
    arguments = ("tests.support.distributed_training", str(tmp_path), "killed and stopped")
    with loopback_only() as addresses, pytest.raises(SystemExit) as ended:
        launching.launch(*arguments, count=2)
    assert addresses == {"127.0.0.1"}
    line = "training process 1 was killed by SIGKILL; restarting all processes from the last saved state\n"
    assert capfd.readouterr().err == line
    assert ended.value.code == 143
    assert (tmp_path / "state/state.pt").is_file()
    assert not (tmp_path / "weights.pt").exists()
    launching.launch(*arguments, count=2)
    assert capfd.readouterr().err == ""
    weights = torch.load(tmp_path / "weights.pt")
    assert weights.keys() == uninterrupted.keys()
    assert all(torch.equal(tensor, uninterrupted[name]) for name, tensor in weights.items())


@pytest.mark.usefixtures("warm")
def test_an_error_in_one_process_ends_all_with_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An error in a batch, then, in a second training of the same processes, an error in validation."""
    started = time.monotonic()
    (tmp_path / "image").mkdir()
    with pytest.raises(PipelineError, match=r"^c\.png: not an image$"):
        launching.launch("tests.support.distributed_training", str(tmp_path), "image", "validation", count=2)
    assert time.monotonic() - started < 300  # gloo gives up after half an hour
    assert capfd.readouterr().err == ""
    assert (tmp_path / "image-1").read_text() == "PipelineError: b.png: not an image"
    assert (tmp_path / "image-0").read_text().startswith("PeerFailedError")


def launch_plain(folder: Path, *behaviors: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launching, "_END_SECONDS", 0.1)
        launching.launch("tests.support.launched_process", str(folder), *behaviors, count=len(behaviors))


def test_the_environment_of_the_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They find each other in a folder of this user alone, and communicate over loopback, whatever was set before."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launching, "_cores", lambda: 5)
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.setenv(name, "eth0")
    launch_plain(tmp_path, "describes", "describes")
    for rank in range(2):
        described = json.loads((tmp_path / f"{rank}.json").read_text())
        assert described["mode"] == 0o700
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
        interface = {"linux": "lo", "darwin": "lo0"}[sys.platform]
        assert [described["environment"][name] for name in names] == [str(rank)] * 2 + ["2", "2"] + [interface] * 2
        assert "MASTER_ADDR" not in described["environment"]
        assert not Path(described["environment"]["FCOS_LAUNCH_FOLDER"]).exists()


def test_processes_that_are_killed_each_time_end_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(PipelineError) as caught:
        launch_plain(tmp_path, "waits", "is killed")
    killed = "training process 1 was killed by SIGKILL"
    assert str(caught.value) == f"{killed}, after 3 restarts: is there enough memory?"
    assert capfd.readouterr().err == f"{killed}; restarting all processes from the last saved state\n" * 3
    assert (tmp_path / "started").read_text().count("1") == 4


def test_an_error_ends_a_process_that_hangs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        launch_plain(tmp_path, "hangs", "raises")
    assert ended.value.code == 1
    assert capfd.readouterr().err == "Traceback of this process\n"
    assert (tmp_path / "started").read_text().count("1") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_are_passed_on(tmp_path: Path, number: signal.Signals) -> None:
    handler = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        launch_plain(tmp_path, "waits", number.name)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) is handler


def test_a_batch_that_processes_can_not_share_evenly_is_an_error() -> None:
    values = recipes.defaults()

    def count(devices: Any, accumulate: int) -> int:
        train = replace(values.train, batch_size=8, accumulate=accumulate)
        machine = replace(values.machine, device="cpu", devices=devices)
        return launching.num_processes(replace(values, train=train, machine=machine))

    assert count("auto", 1) == 1
    assert count(4, 2) == 4
    message = r"batch_size is 8, .* 3 processes \(machine\.devices\) with 2 parts.*: set it to 12"
    with pytest.raises(PipelineError, match=message):
        count(3, 2)
