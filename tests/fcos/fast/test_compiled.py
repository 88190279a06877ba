"""A compiled detector gives the same outputs and gradients; if it can't be compiled, training continues without."""

import os
import shutil
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from fcos.detector import Detector, build
from fcos.fast.compiled import CompiledModel
from tests.support import warm_python
from tests.support.paths import PROJECT
from tests.support.tiny_trainer import TINY, batch, tiny_trainer

SMALL = replace(TINY, levels=(3,), tower_depth=0, channels=16, quality="none")


def results(network: nn.Module, detector: Detector, image: Tensor) -> list[Tensor]:
    outputs = network(image)
    (outputs.logits.sigmoid().sum() + outputs.ltrb.sum()).backward()
    gradients = [parameter.grad.clone() for parameter in detector.parameters() if parameter.grad is not None]
    detector.zero_grad()
    return [outputs.logits.detach(), outputs.ltrb.detach(), outputs.locations.xy, *gradients]


def test_same_results_for_images_of_any_size() -> None:
    """A single graph for all sizes, without graph breaks."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    detector, warnings = build(SMALL, 2).train(), list[str]()
    compiled = CompiledModel(detector, fixed_shape=False, warn=warnings.append, backend="aot_eager")
    shapes = [(64, 96), (128, 64)]
    for shape in shapes:
        image = torch.randn(2, 3, *shape)
        detector.train()
        state = {name: value.clone() for name, value in detector.state_dict().items()}
        torch.manual_seed(1)
        actual = results(compiled, detector, image)
        after = {name: value.clone() for name, value in detector.state_dict().items()}
        detector.load_state_dict(state)
        for value, expected in zip(actual, results(detector, detector, image), strict=True):
            torch.testing.assert_close(value, expected)
        # Batch norm's statistics changed once, despite the warm-up with the first batch.
        for name, value in detector.state_dict().items():
            torch.testing.assert_close(after[name], value)
    counters = torch._dynamo.utils.counters
    assert not warnings
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    assert [name for name, _ in compiled.named_parameters()] == [
        f"network.{name}" for name, _ in detector.named_parameters()
    ]


def broken(_graph: torch.fx.GraphModule, _example: list[Tensor]) -> Any:
    raise NotImplementedError("no such operator\nand much more")


# The forward pass works, the backward pass fails.
late = aot_autograd(fw_compiler=lambda graph, _example: make_boxed_func(graph.forward), bw_compiler=broken)


@pytest.mark.parametrize("backend", [broken, late], ids=["forward", "backward"])
def test_after_a_failed_compilation_training_gives_the_same_result(backend: Any) -> None:
    torch._dynamo.reset()
    steps, warnings = [[batch(0)], [batch(1)]], list[str]()
    plain = tiny_trainer(steps, model=SMALL)
    plain.fit()

    def compile_model(network: nn.Module) -> nn.Module:
        return CompiledModel(network, fixed_shape=True, warn=warnings.append, backend=backend)

    trainer = tiny_trainer(steps, model=SMALL, compile_model=compile_model)
    trainer.fit()
    assert len(warnings) == 1
    assert warnings[0].startswith("torch.compile fails here (")
    assert "no such operator" in warnings[0]
    assert "\n" not in warnings[0]
    expected = plain.detector.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.detector.state_dict().items())


_SMALLEST = """
import torch
import torch._inductor.config
from fcos.structures import Outputs
from fcos.locations import make_locations
from fcos.fast.compiled import CompiledModel
from pipeline.training import compiler_cache

compiler_cache.use_private_folder()
torch._inductor.config.cpp.vec_isa_ok = False  # else torch compiles programs that try the processor's instructions

class OneLayer(torch.nn.Linear):
    def forward(self, batch):
        output = super().forward(batch)
        return Outputs(output, output, None, make_locations([(1, 2)], [8]))

network, batch = OneLayer(4, 4), torch.ones(1, 2, 4)
for compiler in ("/nowhere/g++", "g++"):
    torch._dynamo.reset()
    torch._inductor.config.cpp.cxx = (None, compiler)
    compiled = CompiledModel(network, fixed_shape=True, warn=print)
    assert torch.equal(compiled(batch).ltrb, network(batch).ltrb)
    print(compiler)
"""


def test_the_standard_compiler_with_and_without_a_cpp_compiler(tmp_path: Path) -> None:
    # A whole detector takes more than a minute to compile; test_same_results_for_images_of_any_size traces one.
    if not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    folder = tmp_path / "tmp"
    folder.mkdir()
    environment = os.environ | {"DVC_ROOT": str(tmp_path), "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
    environment.pop("TORCHINDUCTOR_CACHE_DIR", None)  # torch sets it in a process that has compiled
    process = subprocess.run(
        warm_python.command("-c", _SMALLEST),
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    warning, *rest = process.stdout.splitlines()
    assert warning.startswith("torch.compile fails here (")
    assert "No working C++ compiler" in warning
    assert rest == ["/nowhere/g++", "g++"]
    assert not [path for path in folder.rglob("*") if path.is_file()]  # other users could put programs there first
    cache = tmp_path / ".fcos/torch_compile"
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert list(cache.rglob("*.so"))
    assert list(cache.rglob("precompiled_headers/*"))
