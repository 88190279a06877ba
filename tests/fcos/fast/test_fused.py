"""Fused detectors have the same outputs and gradients as the original."""

import operator
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from fcos.backbones.batch_norm import convert_batch_norm
from fcos.config import PAPER
from fcos.detector import Detector, build
from fcos.fast.fused import IDENTITY, RELU, FusedConvolution, _fuse, fuse
from fcos.fast.tracing import rewrite
from fcos.ops.layers import FrozenBatchNorm2d

SMALL = replace(
    PAPER, backbone="tiny", pretrained=False, batch_norm="auto", frozen_stages=0, channels=32, tower_depth=1
)


def random_detector(backbone: str) -> Detector:
    """A detector with random batch norms, which are initially the identity."""
    torch.manual_seed(0)
    detector = build(replace(SMALL, backbone=backbone), 3)
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return detector.eval()


def count_norms(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d) for layer in module.modules())


def assert_same(fused: Detector, detector: Detector, images: Tensor) -> None:
    with torch.inference_mode():
        a, b = fused(images), detector(images)
    assert a.quality is not None
    assert b.quality is not None
    for actual, expected in ((a.logits, b.logits), (a.ltrb, b.ltrb), (a.quality, b.quality)):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("backbone", ["tiny", "resnet18", "resnet50", "efficientnet_lite0", "mobilenet_v3_large"])
def test_batch_norm_is_folded_and_outputs_are_the_same(backbone: str, frozen: bool) -> None:
    detector = random_detector(backbone)
    if frozen:
        convert_batch_norm(detector.backbone, "frozen")
    before = count_norms(detector)
    fused = fuse(detector)
    assert_same(fused, detector, torch.randn(2, 3, 64, 96))
    assert_same(fused, detector, torch.randn(1, 3, 75, 97))  # odd sizes on all levels
    assert count_norms(fused) == 0
    assert count_norms(detector) == before > 0


def test_every_relu_of_a_resnet_is_fused_with_its_convolution() -> None:
    fused = fuse(random_detector("resnet18"))
    layers = [layer for layer in fused.backbone.modules() if isinstance(layer, FusedConvolution)]
    assert sum(layer.activation is RELU for layer in layers) == 17
    assert not any(isinstance(layer, nn.ReLU) for layer in fused.backbone.modules())


@pytest.mark.parametrize(
    ("backbone", "counts"),
    [
        ("efficientnet_lite0", {"hardtanh": 32, "none": 16}),
        ("mobilenet_v2", {"hardtanh": 35, "none": 17}),
        ("mobilenet_v3_large", {"relu": 19, "hardswish": 20, "none": 23}),
    ],
)
def test_activations_and_additions_of_bottlenecks_are_fused(backbone: str, counts: dict[str, int]) -> None:
    """ReLU6 after expansions and depthwise convolutions, a residual's addition or nothing after projections."""
    fused = fuse(random_detector(backbone))
    layers = [layer for layer in fused.backbone.modules() if isinstance(layer, FusedConvolution)]
    assert Counter(layer.activation.name for layer in layers) == counts
    assert not any(isinstance(layer, nn.ReLU | nn.ReLU6 | nn.Hardswish) for layer in fused.backbone.modules())
    called = [
        node.target
        for block in fused.backbone.modules()
        if isinstance(block, fx.GraphModule)
        for node in block.graph.nodes
        if node.op == "call_function"
    ]
    assert {operator.add, operator.iadd, torch.add, F.relu6}.isdisjoint(called)


class Shared(nn.Module):
    """A convolution that is called twice, once with relu."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.convolution(x)) + self.convolution(-x) + self.norm(x)


class Changing(nn.Module):
    """The input of a convolution is changed before its output is used."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.drop = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        skip = self.drop(self.convolution(x))
        x = F.silu(x, inplace=True)
        return torch.sigmoid(x) + skip


@pytest.mark.parametrize("block", [Shared, Changing])
def test_a_block_where_a_careless_fusion_would_be_wrong(block: type[nn.Module]) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(block()).eval()
    x = torch.randn(2, 3, 9, 8)
    with torch.inference_mode():
        expected = layers(x.clone())
        rewrite(layers, nn.BatchNorm2d, _fuse, never=nn.ModuleList)
        assert isinstance(layers[0], fx.GraphModule)
        torch.testing.assert_close(layers(x.clone()), expected)


@pytest.mark.parametrize("shape", [(2, 6, 8, 8), (1, 6, 8, 8), (2, 6, 1, 1), (6, 1, 1), (1,), (2, 6, 1, 8)])
@torch.inference_mode()
def test_what_is_added_may_have_another_shape(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    convolution, x, other = nn.Conv2d(4, 6, 3, stride=2, padding=1), torch.randn(2, 4, 15, 16), torch.randn(shape)
    expected = convolution(x) + other
    torch.testing.assert_close(FusedConvolution(convolution, IDENTITY)(x, other), expected)
    torch.testing.assert_close(FusedConvolution(convolution, RELU)(x, other), expected.relu())


def test_depthwise_towers_with_batch_norm_are_fused() -> None:
    torch.manual_seed(0)
    detector = build(replace(SMALL, tower_convolution="depthwise", head_norm="batch"), 3)
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    fused = fuse(detector.eval())
    assert_same(fused, detector, torch.randn(2, 3, 64, 64))
    assert count_norms(fused) == 0


@torch.inference_mode()
def test_torch_compile_takes_it_as_one_program() -> None:
    detector = random_detector("resnet18")
    program = torch.compile(fuse(detector), backend="eager", fullgraph=True)
    assert_same(program, detector, torch.randn(2, 3, 64, 96))


def test_gradients_of_activations() -> None:
    """With gradients, a fused convolution runs as separate layers."""
    detector = random_detector("resnet18")
    fused = fuse(detector)
    images = torch.randn(2, 3, 64, 64)
    gradients = []
    for network in (detector, fused):
        pixels = images.clone().requires_grad_()
        network(pixels).logits.sum().backward()
        assert pixels.grad is not None
        gradients.append(pixels.grad)
    expected, gradient = gradients
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


class NotFusable(nn.Module):
    """Fusing would be wrong: an output used twice, a convolution called twice, and a norm before a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.norm1, self.norm2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(self.norm0(x))
        y = torch.relu(x) + self.norm1(x)
        return self.norm2(self.conv2(self.conv2(y))).relu() + torch.relu(1 + self.conv1(y))


class Untraceable(nn.Module):
    """Its control flow depends on values, which a tracer can't follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out if out.sum() > 0 else -out


@pytest.mark.parametrize(("stem", "remaining"), [(NotFusable, 3), (Untraceable, 0)])
def test_unusual_modules_have_the_same_outputs(stem: type[nn.Module], remaining: int) -> None:
    detector = random_detector("tiny")
    parts = detector.backbone.parts
    parts[0] = nn.Sequential(stem(), parts[0])
    for layer in parts[0][0].modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
    detector.eval()
    fused = fuse(detector)
    assert_same(fused, detector, torch.randn(2, 3, 64, 64))
    assert count_norms(fused) == remaining


def test_a_neck_and_a_head_without_batch_norm_do_not_change() -> None:
    detector = random_detector("tiny")
    fused = fuse(detector)
    assert str(fused.neck) == str(detector.neck)
    assert str(fused.head) == str(detector.head)
