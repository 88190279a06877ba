"""Harness: times of real callables, content of cards, and that no card is overwritten."""

import subprocess
import time
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as bench
from benchmarks import gpu, harness
from benchmarks.harness import Limit, Measurement, Side, Times, Unavailable
from tests.support import warm_python
from tests.support.paths import PROJECT

MATRIX = torch.ones(64, 64)


def one_product() -> object:
    return MATRIX @ MATRIX


def many_products() -> object:
    return [MATRIX @ MATRIX for _ in range(200)]


def missing() -> tuple[Side, Side]:
    raise Unavailable("no such arithmetic")


def test_the_slower_side_is_slower() -> None:
    assert harness.compare(one_product, many_products, repeats=5, warmup=1).ratio > 10
    assert harness.compare(many_products, one_product, repeats=5, warmup=1).ratio < 0.1


def test_sides_take_turns() -> None:
    calls: list[str] = []
    harness.compare(lambda: calls.append("ours"), lambda: calls.append("theirs"), repeats=3, warmup=1)
    assert calls == ["ours", "theirs", "ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_a_side_may_be_compared_with_itself() -> None:
    calls: list[float] = []

    def side() -> None:
        calls.append(time.perf_counter())

    comparison = harness.compare(side, side, repeats=5, warmup=2)
    assert len(calls) == 2 * (5 + 2)
    assert 0 < comparison.ours.median < calls[-1] - calls[0]


def test_median_and_quartiles() -> None:
    assert harness.times([5.0, 1.0, 4.0, 2.0, 3.0]) == Times(median=3.0, low=2.0, high=4.0)
    assert harness.times([2.0]) == Times(median=2.0, low=2.0, high=2.0)
    assert harness.Comparison(Times(2.0, 2.0, 2.0), Times(7.0, 7.0, 7.0)).ratio == 3.5


@pytest.fixture
def results() -> list[harness.Result]:
    measurements = [
        Measurement("fewer products", 2.0, lambda: (one_product, many_products)),
        Measurement("more products", 2.0, lambda: (many_products, one_product)),
        Measurement("bf16", 2.2, missing),
    ]
    limits = [Limit("memory", 1.0, "GiB", lambda: 0.25), Limit("disk", 1.0, "GiB", lambda: 1.0)]
    return bench.run(measurements, limits, repeats=3, warmup=1)


def test_card(results: list[harness.Result], tmp_path: Path) -> None:
    text = harness.bench_card(results, command="python -m benchmarks", repeats=3, warmup=1)
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert list(rows) == ["measurement", "fewer products", "more products", "memory", "disk"]
    assert rows["fewer products"].endswith("× | ≥ 2× | met |")
    assert rows["more products"].endswith("× | ≥ 2× | **missed** |")
    assert rows["memory"] == "| memory | 0.25 GiB |  |  | < 1 GiB | met |"
    assert rows["disk"] == "| disk | 1 GiB |  |  | < 1 GiB | **missed** |"
    assert "- bf16: no such arithmetic\n" in text
    # Only measurements that missed their goal are profiled, and a profile names operators.
    head, _, profiles = text.partition("## Profiles of missed goals")
    assert "### more products" in profiles
    assert "aten::mm" in profiles
    assert "fewer products" not in profiles
    assert "aten::mm" not in head
    assert text.endswith("## Notes\n\nNone yet.\n")
    assert str(tmp_path) not in text


def test_machine_has_versions_and_no_host_name() -> None:
    machine = harness.machine()
    assert torch.__version__ in machine
    assert f"{torch.get_num_threads()} threads" in machine
    host = subprocess.run(["uname", "-n"], capture_output=True, text=True, check=True).stdout.strip()
    assert host not in machine
    assert str(PROJECT) not in harness.context()


def test_a_card_never_overwrites_another(tmp_path: Path) -> None:
    first = harness.save_card("first", "bench", tmp_path)
    second = harness.save_card("second", "bench", tmp_path)
    assert first.name == f"{harness.today()}-bench.md"
    assert second.name == f"{harness.today()}-bench-2.md"
    assert (first.read_text(), second.read_text()) == ("first", "second")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_reason_is_given() -> None:
    for result in bench.run(gpu.MEASUREMENTS, gpu.LIMITS, repeats=1, warmup=0):
        assert result.unavailable == "no GPU"


def test_the_command_writes_a_card(tmp_path: Path) -> None:
    command = warm_python.command("-m", "benchmarks", "--quick", "--only", "GPU", "--out", str(tmp_path))
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (card,) = tmp_path.glob("*-bench.md")
    assert str(card) in done.stdout
    assert "GPU, AMP: 16 images to boxes" in card.read_text()
