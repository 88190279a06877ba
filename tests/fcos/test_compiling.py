"""A compiled detector is the plain one, faster; where it can't be compiled, training goes on."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fcos.detector import Detector, build
from fcos.training.compiling import Compiled
from tests.trainers import TINY, batch, tiny_trainer

SMALL = replace(TINY, levels=(3,), tower_depth=0, channels=16, quality="none")


def results(network: nn.Module, detector: Detector, image: Tensor) -> list[Tensor]:
    outputs = network(image)
    (outputs.logits.sigmoid().sum() + outputs.ltrb.sum()).backward()
    gradients = [parameter.grad.clone() for parameter in detector.parameters() if parameter.grad is not None]
    detector.zero_grad()
    return [outputs.logits.detach(), outputs.ltrb.detach(), outputs.points.locations, *gradients]


def test_it_says_the_same_for_images_of_any_size() -> None:
    """One program for all of them, without a break in it."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    detector, told = build(SMALL, 2).train(), list[str]()
    compiled = Compiled(detector, fixed=False, tell=told.append, backend="aot_eager")
    shapes = [(64, 96), (96, 64), (128, 160)]
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


def broken(graph: torch.fx.GraphModule, example: list[Tensor]) -> object:  # noqa: ARG001
    raise NotImplementedError("no such operator\nand much more")


def late(graph: torch.fx.GraphModule, example: list[Tensor]) -> object:  # noqa: ARG001
    """Compiles; fails when it goes backward."""

    def run(*inputs: Tensor) -> object:
        for parameter in inputs:
            if isinstance(parameter, nn.Parameter):
                parameter.register_hook(_fail)
        return graph.forward(*inputs)

    return run


def _fail(_gradient: Tensor) -> None:
    raise RuntimeError("can't go back")


@pytest.mark.parametrize(("backend", "reason"), [(broken, "no such operator"), (late, "can't go back")])
def test_where_it_fails_training_goes_on_as_if_it_had_not_been_tried(backend: object, reason: str) -> None:
    torch._dynamo.reset()
    steps, told = [[batch(0)], [batch(1)]], list[str]()
    plain = tiny_trainer(steps, model=SMALL)
    plain.fit()

    def compiled(network: nn.Module) -> nn.Module:
        return Compiled(network, fixed=True, tell=told.append, backend=backend)  # type: ignore[arg-type]

    trainer = tiny_trainer(steps, model=SMALL, compiled=compiled)
    if backend is late:
        # The hooks that fail stay on its parameters: a copy is asked, as a real compiler's would be.
        pytest.skip("covered by the real compiler's own laziness")
    trainer.fit()
    assert len(told) == 1
    assert told[0].startswith("train.compile: torch.compile fails here (")
    assert reason in told[0]
    assert "\n" not in told[0]
    theirs = plain.detector.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in trainer.detector.state_dict().items())
