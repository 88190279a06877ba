"""Two real processes, joined by gloo, against one with all their images."""

import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch

from fcos.training.distributed import SINGLE_PROCESS
from tests.support.distributed_gradients import CASES, answers, gradients
from tests.support.projects import PROJECT

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each process found, by its rank."""
    folder = tmp_path_factory.mktemp("processes")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "tests.support.distributed_gradients", str(folder)],
            cwd=PROJECT,
            env=os.environ | shared | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "")
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_the_gradients_of_one_with_all_images(found: Found, name: str) -> None:
    first, second = CASES[name][2]
    whole = gradients(name, first + second, SINGLE_PROCESS)
    assert whole["head.class_logits.bias"].abs().max() > 0
    for one in found:
        same(one["gradients"][name], whole)


def test_parts_add_up_in_each_process_before_they_are_shared(found: Found) -> None:
    """Each part has its own normalizers, over all processes: two images of each process."""
    first, second = CASES["giou"][2]
    halves = [gradients("giou", first[half] + second[half], SINGLE_PROCESS) for half in (slice(2), slice(2, 4))]
    whole = {name: (gradient + halves[1][name]) / 2 for name, gradient in halves[0].items()}
    for one in found:
        same(one["gradients"]["in parts"], whole)


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """But for float32's rounding."""
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item() + 1e-9)


def test_what_processes_say_to_each_other(found: Found) -> None:
    for rank, each in enumerate(found):
        said = each["answers"]
        assert said["world_size"] == 2
        assert said["mean"].tolist() == [1.5, 5.0]
        assert said["value"].tolist() == [1.0 + rank, 5.0]  # not touched
        assert said["max"] == 3
        assert said["all_gather_object"] == [{"rank": 0}, {"rank": 1}]
        assert said["first"]["weights"].tolist() == [0, 0, 0]
        assert said["running mean"].tolist() == pytest.approx([0.1, 0.1])


def test_one_process_says_it_to_itself() -> None:
    said = answers(SINGLE_PROCESS)
    assert (said["world_size"], said["max"], said["all_gather_object"]) == (1, 3, [{"rank": 0}])
    assert said["mean"].tolist() == [1.0, 5.0]
