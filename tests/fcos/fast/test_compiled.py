"""A compiled detector is the plain one, faster; where it can't be compiled, training goes on."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from fcos.detector import Detector, build
from fcos.fast.compiled import Compiled
from tests.support.paths import PROJECT
from tests.support.tiny_trainer import TINY, batch, tiny_trainer

SMALL = replace(TINY, levels=(3,), tower_depth=0, channels=16, quality="none")


def results(network: nn.Module, detector: Detector, image: Tensor) -> list[Tensor]:
    outputs = network(image)
    (outputs.logits.sigmoid().sum() + outputs.ltrb.sum()).backward()
    gradients = [parameter.grad.clone() for parameter in detector.parameters() if parameter.grad is not None]
    detector.zero_grad()
    return [outputs.logits.detach(), outputs.ltrb.detach(), outputs.locations.xy, *gradients]


def test_it_says_the_same_for_images_of_any_size() -> None:
    """One program for all of them, without a break in it."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    detector, told = build(SMALL, 2).train(), list[str]()
    compiled = Compiled(detector, fixed=False, tell=told.append, backend="aot_eager")
    shapes = [(64, 96), (128, 64)]
    for shape in shapes:
        image = torch.randn(2, 3, *shape)
        detector.train()
        state = {name: value.clone() for name, value in detector.state_dict().items()}
        torch.manual_seed(1)
        found = results(compiled, detector, image)
        after = {name: value.clone() for name, value in detector.state_dict().items()}
        detector.load_state_dict(state)
        for value, expected in zip(found, results(detector, detector, image), strict=True):
            torch.testing.assert_close(value, expected)
        # Statistics moved once, though the first batch was rehearsed.
        for name, value in detector.state_dict().items():
            torch.testing.assert_close(after[name], value)
    counters = torch._dynamo.utils.counters
    assert not told
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert [name for name, _ in compiled.named_parameters()] == [
        f"network.{name}" for name, _ in detector.named_parameters()
    ]


def broken(_graph: torch.fx.GraphModule, _example: list[Tensor]) -> Any:
    raise NotImplementedError("no such operator\nand much more")


# Goes forward, and fails when it goes backward.
late = aot_autograd(fw_compiler=lambda graph, _example: make_boxed_func(graph.forward), bw_compiler=broken)


@pytest.mark.parametrize("backend", [broken, late], ids=["forward", "backward"])
def test_where_it_fails_training_goes_on_as_if_it_had_not_been_tried(backend: Any) -> None:
    torch._dynamo.reset()
    steps, told = [[batch(0)], [batch(1)]], list[str]()
    plain = tiny_trainer(steps, model=SMALL)
    plain.fit()

    def compile_model(network: nn.Module) -> nn.Module:
        return Compiled(network, fixed=True, tell=told.append, backend=backend)

    trainer = tiny_trainer(steps, model=SMALL, compile_model=compile_model)
    trainer.fit()
    assert len(told) == 1
    assert told[0].startswith("train.compile: torch.compile fails here (")
    assert "no such operator" in told[0]
    assert "\n" not in told[0]
    theirs = plain.detector.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in trainer.detector.state_dict().items())


_SMALLEST = """
import torch
from fcos.structures import Outputs
from fcos.locations import make_locations
from fcos.fast.compiled import Compiled

class OneLayer(torch.nn.Linear):
    def forward(self, batch):
        found = super().forward(batch)
        return Outputs(found, found, None, make_locations([(1, 2)], [8]))

network = OneLayer(4, 4)
compiled = Compiled(network, fixed=True, tell=print)
batch = torch.ones(1, 2, 4)
assert torch.equal(compiled(batch).ltrb, network(batch).ltrb)
"""


def said(script: str, folder: Path, **environment: str) -> list[str]:
    """The lines of a process that compiles with the standard compiler, and has no earlier programs to take."""
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_the_standard_compiler(tmp_path: Path) -> None:
    # A whole detector takes it a minute and more; that one can be traced whole, test_it_says_the_same_… holds.
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    assert said(_SMALLEST, tmp_path) == []


def test_no_cpp_compiler(tmp_path: Path) -> None:
    (line,) = said(_SMALLEST, tmp_path, CXX="/nowhere/g++")
    assert line.startswith("train.compile: torch.compile fails here (")
