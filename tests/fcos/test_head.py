"""The head: initial values, options, and the order of its outputs."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSHead

from fcos.config import PAPER
from fcos.head import Head

SMALL = replace(PAPER, channels=32, tower_depth=1, levels=(3,))
BARE = replace(SMALL, tower_depth=0)  # only the output layers


def zeros(*sizes: int, channels: int = 32) -> list[Tensor]:
    return [torch.zeros(1, channels, size, size) for size in sizes]


def test_the_initial_probability_is_the_prior() -> None:
    logits, _, _, _ = Head(SMALL, 5)(zeros(4))
    assert logits.sigmoid().tolist()[0][0] == pytest.approx([0.01] * 5)


def geometric_mean_distance(ratio: float, largest: int) -> float:
    """The mean of 0, 1, …, largest with probabilities in proportion to ratio^i."""
    weights = [ratio**i for i in range(largest + 1)]
    return sum(i * weight for i, weight in enumerate(weights)) / sum(weights)


def test_initial_distributions_by_hand() -> None:
    """ln(2/3)·i for i strides, whose mean is 2 strides but for the cut-off tail; the second level's s is 3."""
    head = Head(replace(BARE, levels=(3, 4), box_output="distribution"), 1)
    with torch.no_grad():
        head.scales.copy_(torch.tensor([1.0, 3.0]))
        _, ltrb, _, distributions = head(zeros(1, 1))
    assert ltrb[0].tolist() == [
        pytest.approx([8 * geometric_mean_distance(2 / 3, 16)] * 4),
        pytest.approx([16 * geometric_mean_distance(8 / 27, 16)] * 4),
    ]
    assert 8 * geometric_mean_distance(2 / 3, 16) == pytest.approx(15.86, abs=0.01)
    assert distributions is not None
    assert distributions.shape == (1, 2, 4, 17)


def test_means_of_distributions_by_hand() -> None:
    """Left: half 1 and half 3 strides of 8 pixels; the others: 0, 2 and 3 strides."""
    head = Head(replace(BARE, box_output="distribution", distribution_max=3), 1)
    shares = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    with torch.no_grad():
        head.box.bias.copy_((shares + 1e-9).log().flatten())
        _, ltrb, _, distributions = head(zeros(1))
    assert ltrb[0, 0].tolist() == pytest.approx([16, 0, 16, 24], abs=1e-4)
    assert distributions is not None
    torch.testing.assert_close(distributions[0, 0].exp(), shares, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("box_output", "expected"), [("relu", [2 * 8 * 1.0, 2 * 16 * 3.0]), ("exp", [1.0, 1.0])])
def test_initial_boxes_by_hand(box_output: Any, expected: list[float]) -> None:
    """For features of zero, the box layer returns its bias: 2 for relu, 0 for exp; the second level's s is 3."""
    head = Head(replace(BARE, levels=(3, 4), box_output=box_output), 1)
    with torch.no_grad():
        head.scales.copy_(torch.tensor([1.0, 3.0]))
        _, ltrb, _, _ = head(zeros(1, 1))
    assert ltrb[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("box_output", "expected"),
    [("relu", [0, 0, 8 * 0.5 * 1, 8 * 0.5 * 2]), ("exp", [2.718281828 ** (0.5 * x) for x in (-1, 0, 1, 2)])],
)
def test_distances_by_hand(box_output: Any, expected: list[float]) -> None:
    """x = −1, 0, 1, 2 for the four sides, s = ½, stride 8."""
    head = Head(replace(BARE, box_output=box_output), 1)
    with torch.no_grad():
        head.scales.fill_(0.5)
        head.box.bias.copy_(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
        _, ltrb, _, _ = head(zeros(1))
    assert ltrb[0, 0].tolist() == pytest.approx(expected)


def copy_first_channel(layer: nn.Conv2d) -> None:
    """Sets the weights so that the layer returns the first channel of its input."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    with torch.no_grad():
        layer.weight[0, 0, 1, 1] = 1


def test_outputs_have_the_order_of_the_locations() -> None:
    head = Head(replace(BARE, channels=8, levels=(3, 4)), 1)
    copy_first_channel(head.class_logits)
    assert head.quality is not None
    copy_first_channel(head.quality)
    fine, coarse = torch.zeros(1, 8, 2, 3), torch.zeros(1, 8, 1, 2)
    fine[0, 0], coarse[0, 0] = torch.arange(6.0).view(2, 3), torch.tensor([[6.0, 7.0]])
    logits, _, quality, _ = head([fine, coarse])
    assert logits[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert quality is not None
    assert quality[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_the_number_of_parameters_is_the_papers() -> None:
    """Two towers of four 3×3 convolutions with 256 channels, bias and group norm; three outputs for 80 classes."""
    head = Head(PAPER, 80)
    tower = 4 * (256 * 256 * 9 + 256 + 2 * 256)
    outputs = (80 + 4 + 1) * (256 * 9 + 1)
    assert sum(parameter.numel() for parameter in head.parameters()) == 2 * tower + outputs + 5


def test_torchvisions_weights_fit_and_compute_the_same() -> None:
    torch.manual_seed(0)
    config = replace(PAPER, channels=64, tower_depth=2, levels=(3, 4))
    head, reference = Head(config, 7), FCOSHead(64, 1, 7, 2)
    state = {"scales": torch.ones(2)}
    for ours, theirs in (
        ("class_tower", "classification_head.conv"),
        ("class_logits", "classification_head.cls_logits"),
        ("box_tower", "regression_head.conv"),
        ("box", "regression_head.bbox_reg"),
        ("quality", "regression_head.bbox_ctrness"),
    ):
        tensors = reference.get_submodule(theirs).state_dict()
        state |= {f"{ours}.{name}": torch.randn_like(tensor) * 0.1 for name, tensor in tensors.items()}
        reference.get_submodule(theirs).load_state_dict({name: state[f"{ours}.{name}"] for name in tensors})
    head.load_state_dict(state)
    levels = [torch.randn(2, 64, 5, 6), torch.randn(2, 64, 3, 3)]
    expected = reference(levels)
    logits, ltrb, quality, _ = head(levels)
    strides = torch.tensor([8.0] * 30 + [16.0] * 9).view(1, -1, 1)
    torch.testing.assert_close(logits, expected["cls_logits"])
    torch.testing.assert_close(ltrb, expected["bbox_regression"] * strides)
    torch.testing.assert_close(quality, expected["bbox_ctrness"][..., 0])


def layer_types(tower: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in tower.children()]


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ("group", ["Conv2d", "GroupNorm", "ReLU"] * 2),
        ("batch", ["Conv2d", "BatchNorm2d", "ReLU"] * 2),
        ("none", ["Conv2d", "ReLU"] * 2),
    ],
)
def test_towers(norm: Any, expected: list[str]) -> None:
    head = Head(replace(SMALL, tower_depth=2, head_norm=norm), 3)
    assert layer_types(head.class_tower) == layer_types(head.box_tower) == expected
    assert all(layer.bias is not None for layer in head.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize(("depth", "width"), [(2, 48), (1, 16), (0, 48)])
def test_width_of_towers(depth: int, width: int) -> None:
    head = Head(replace(SMALL, tower_depth=depth, tower_channels=width), 3)
    convolutions = [layer for layer in head.class_tower if isinstance(layer, nn.Conv2d)]
    widths: Sequence[int] = [32, *[width] * depth]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == list(pairwise(widths))
    assert head.class_logits.in_channels == head.box.in_channels == widths[-1]
    logits, ltrb, quality, _ = head([torch.randn(2, 32, 2, 2)])
    assert (logits.shape, ltrb.shape) == ((2, 4, 3), (2, 4, 4))
    assert quality is not None
    assert quality.shape == (2, 4)


DEPTHWISE = replace(SMALL, tower_convolution="depthwise")


def test_a_depthwise_tower_is_a_convolution_whose_weights_are_products() -> None:
    """W[o, i, y, x] = pointwise[o, i] · depthwise[i, y, x], and the norm follows both parts."""
    tower = Head(replace(DEPTHWISE, tower_channels=16), 3).class_tower
    assert layer_types(tower) == ["Conv2d", "Conv2d", "GroupNorm", "ReLU"]
    each, across, norm, relu = tower
    weight = across.weight * each.weight.squeeze(1)[None]
    features = torch.randn(2, 32, 5, 6)
    expected = relu(norm(nn.functional.conv2d(features, weight, across.bias, padding=1)))
    torch.testing.assert_close(tower(features), expected, atol=1e-5, rtol=1e-4)


def test_the_parameters_of_depthwise_towers() -> None:
    head = Head(replace(PAPER, tower_convolution="depthwise"), 80)
    tower = 4 * (256 * 9 + 256 * 256 + 256 + 2 * 256)
    outputs = (80 + 4 + 1) * (256 * 9 + 1)
    assert sum(parameter.numel() for parameter in head.parameters()) == 2 * tower + outputs + 5


def test_initial_depthwise_towers_keep_prior_gradients_and_variance() -> None:
    """A pointwise convolution of standard deviation 0.01 alone leaves 0.01² · 32 = 0.0032 of the variance."""
    torch.manual_seed(0)
    head = Head(replace(DEPTHWISE, head_norm="none"), 5)
    convolutions = head.class_tower[:2]
    assert convolutions(torch.randn(8, 32, 24, 24)).var().item() == pytest.approx(0.0032, rel=0.3)
    logits, ltrb, quality, _ = head([torch.randn(2, 32, 8, 8)])
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.05)
    assert quality is not None
    (logits.sum() + ltrb.sum() + quality.sum()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())


@pytest.mark.parametrize("quality", ["centerness", "iou"])
@pytest.mark.parametrize(("tower", "other"), [("box", "class"), ("class", "box")])
def test_the_quality_branch_is_on_its_tower(quality: Any, tower: Any, other: str) -> None:
    head = Head(replace(SMALL, quality=quality, quality_tower=tower), 3)
    output = head([torch.randn(1, 32, 4, 4)])[2]
    assert output is not None
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in head.get_submodule(f"{tower}_tower").parameters())
    assert all(parameter.grad is None for parameter in head.get_submodule(f"{other}_tower").parameters())


def test_without_quality_there_is_no_branch() -> None:
    head = Head(replace(SMALL, quality="none"), 3)
    assert not [name for name, _ in head.named_parameters() if "quality" in name]
    assert head([torch.randn(1, 32, 4, 4)])[2] is None
