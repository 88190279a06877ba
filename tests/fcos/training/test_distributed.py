"""Two processes that communicate by gloo, compared with one process that has all their images."""

import os
import pickle
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fcos.training import distributed
from fcos.training.distributed import SINGLE_PROCESS
from tests.support import warm_python
from tests.support.distributed_gradients import CASES, communicate, gradients
from tests.support.projects import PROJECT

Outcomes = list[dict[str, Any]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """The outcome of each process, by its rank."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            warm_python.command("-W", "error", "-m", "tests.support.distributed_gradients", str(folder)),
            cwd=PROJECT,
            env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (0, "")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradients_of_one_with_all_images(outcomes: Outcomes, name: str) -> None:
    first, second = CASES[name][2]
    whole = gradients(name, first + second, SINGLE_PROCESS)
    assert whole["head.class_logits.bias"].abs().max() > 0
    for outcome in outcomes:
        assert_close(outcome["gradients"][name], whole)


def test_gradients_of_parts_accumulate_before_they_are_averaged(outcomes: Outcomes) -> None:
    """Each part is normalized separately, over all processes: two images of each process."""
    first, second = CASES["giou"][2]
    halves = [gradients("giou", first[half] + second[half], SINGLE_PROCESS) for half in (slice(2), slice(2, 4))]
    whole = {name: (gradient + halves[1][name]) / 2 for name, gradient in halves[0].items()}
    for outcome in outcomes:
        assert_close(outcome["gradients"]["in parts"], whole)


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Equal within float32's rounding."""
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item() + 1e-9)


def test_operations_between_two_processes(outcomes: Outcomes) -> None:
    for rank, outcome in enumerate(outcomes):
        results = outcome["communication"]
        assert results["world_size"] == 2
        assert results["mean"].tolist() == [1.5, 5.0]
        assert results["value"].tolist() == [1.0 + rank, 5.0]  # not changed
        assert results["max"] == 3
        assert results["all_gather_object"] == [{"rank": 0}, {"rank": 1}]
        assert results["broadcast_object"]["weights"].tolist() == [0, 0, 0]
        assert results["running mean"].tolist() == pytest.approx([0.1, 0.1])


def test_batch_norm_keeps_the_statistics_of_each_process_until_they_are_broadcast(outcomes: Outcomes) -> None:
    """Momentum ½, from 0: process r sees maps of 1 + 10·r, then of 2 + 10·r."""
    for rank, outcome in enumerate(outcomes):
        first, second, broadcast = (mean.tolist() for mean in outcome["running means"])
        assert first == [0.5 + 5 * rank] * 2
        assert second == [1.25 + 7.5 * rank] * 2
        assert broadcast == [1.25] * 2


def test_received_objects_can_not_run_code(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "attacked"),)

    for data in (
        distributed._to_bytes(Attack()),
        torch.frombuffer(bytearray(pickle.dumps(Attack(), protocol=2)), dtype=torch.uint8),
    ):
        with pytest.raises(pickle.UnpicklingError):
            distributed._from_bytes(data)
    assert not (tmp_path / "attacked").exists()


def test_objects_are_exchanged_without_loss() -> None:
    value = [(2**60, -1, (0.1, 1e-300), float("inf"), None, True, "é", b"\0"), {"w": torch.arange(3)}]
    received = distributed._from_bytes(distributed._to_bytes(value))
    assert received[0] == value[0]
    assert torch.equal(received[1]["w"], torch.arange(3))


def test_operations_of_a_single_process() -> None:
    results = communicate(SINGLE_PROCESS)
    assert (results["world_size"], results["max"], results["all_gather_object"]) == (1, 3, [{"rank": 0}])
    assert results["mean"].tolist() == [1.0, 5.0]
