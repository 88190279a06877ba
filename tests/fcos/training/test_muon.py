"""Muon: orthogonalization against the iteration as published and torch's optimizer, and which parameters it updates."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fcos.detector import build
from fcos.training.muon import Muon, orthogonalize
from fcos.training.optimization import make_optimizer
from tests.support.tiny_trainer import TINY


def published_iteration(matrix: Tensor) -> Tensor:
    x = matrix.double() / matrix.double().norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return x


@pytest.mark.parametrize("shape", [(16, 16), (12, 60), (60, 12), (1, 9)])
def test_orthogonalization_equals_the_published_iteration(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    expected = torch.stack([published_iteration(matrix) for matrix in matrices]).float()
    torch.testing.assert_close(orthogonalize(matrices), expected, atol=2e-4, rtol=0)


def test_singular_values_come_near_1() -> None:
    """Of a matrix whose singular values span a factor of 100."""
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(32, 96), full_matrices=False)
    result = orthogonalize((u * torch.logspace(0, -2, 32) @ v)[None])[0]
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_a_gradient_of_zero_changes_nothing() -> None:
    assert not orthogonalize(torch.zeros(1, 4, 9)).any()


def test_a_step_by_hand() -> None:
    """The gradient diag(3, 4) is diag(0.6, 0.8) after normalization; the polynomial is applied to each of both."""
    layer = nn.Linear(2, 2)
    nn.init.eye_(layer.weight)
    optimizer = Muon([{"params": [layer.weight], "weight_decay": 0.1}], [{"params": [layer.bias]}], lr=0.5)
    layer.weight.grad = torch.diag(torch.tensor([3.0, 4.0]))
    optimizer.step()
    expected = []
    for value in (0.6, 0.8):
        for _ in range(5):
            value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
        expected.append(1 - 0.5 * 0.1 - 0.5 * 0.2 * 2**0.5 * value)
    torch.testing.assert_close(layer.weight.detach(), torch.diag(torch.tensor(expected)))


def test_steps_equal_those_of_torchs_optimizers() -> None:
    """torch's Muon computes in bfloat16, with a precision of 0.8 percent; biases are AdamW's."""

    def train(*optimizers: torch.optim.Optimizer) -> None:
        for step in range(5):
            layer.weight.grad, layer.bias.grad = gradients[step], gradients[step][:, 0].clone()
            for optimizer in optimizers:
                optimizer.step()

    torch.manual_seed(0)
    gradients = torch.randn(5, 24, 40)
    layer = nn.Linear(40, 24)
    start = {name: value.clone() for name, value in layer.state_dict().items()}
    train(make_optimizer(layer, name="muon", lr=0.01, weight_decay=0.1, momentum=0))
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer.load_state_dict(start)
    train(
        torch.optim.Muon([layer.weight], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([layer.bias], lr=0.01, weight_decay=0.0, fused=True),
    )
    assert torch.equal(bias, layer.bias)
    difference = (weight - layer.weight).norm() / (weight - start["weight"]).norm()
    assert difference < 0.02


def test_matrices_are_all_weights_but_the_first_depthwise_ones_and_the_outputs() -> None:
    detector = build(replace(TINY, tower_convolution="depthwise"), 3)
    optimizer = make_optimizer(detector, name="muon", lr=1, weight_decay=0.5, momentum=0)
    assert isinstance(optimizer, Muon)
    names = {parameter: name for name, parameter in detector.named_parameters()}
    matrices, decayed, others = ({names[p] for p in group["params"]} for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5, 0.0]
    assert sorted([*matrices, *decayed, *others]) == sorted(names.values())
    first = next(name for name in names.values() if name.startswith("backbone"))
    outputs = {f"head.{name}.weight" for name in ("class_logits", "box", "quality")}
    depthwise = {"head.class_tower.0.weight", "head.box_tower.0.weight"}
    assert decayed == {first, *outputs, *depthwise}
    assert {"head.class_tower.1.weight", "head.box_tower.1.weight"} <= matrices
    assert any(name.startswith("neck") for name in matrices)


def test_parameters_without_a_gradient_are_left_alone() -> None:
    """A backbone that is frozen at first."""
    layers = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    optimizer = make_optimizer(layers, name="muon", lr=0.1, weight_decay=0.5, momentum=0)
    before = [parameter.detach().clone() for parameter in layers.parameters()]
    layers[1](torch.ones(1, 8)).sum().backward()
    optimizer.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, layers.parameters(), strict=True)]
    assert changed == [False, False, True, True]


def test_channels_last_changes_nothing() -> None:
    def train(memory_format: torch.memory_format) -> Tensor:
        torch.manual_seed(0)
        layer = nn.Conv2d(8, 4, 3).to(memory_format=memory_format)
        optimizer = make_optimizer(layer, name="muon", lr=0.1, weight_decay=0.1, momentum=0)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.ones(1, 8, 4, 4)).pow(2).sum().backward()
            optimizer.step()
        assert layer.weight.is_contiguous(memory_format=memory_format)
        return layer.weight.detach()

    torch.testing.assert_close(train(torch.channels_last), train(torch.contiguous_format))
