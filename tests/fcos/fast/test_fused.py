"""Fused detectors say what their originals say."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fcos.backbones.batch_norm import convert_batch_norm
from fcos.config import PAPER
from fcos.detector import Detector, build
from fcos.fast.fused import ConvolutionRelu, fuse
from fcos.ops.layers import FrozenBatchNorm2d

SMALL = replace(
    PAPER, backbone="tiny", pretrained=False, batch_norm="auto", frozen_stages=0, channels=32, tower_depth=1
)


def lively(backbone: str) -> Detector:
    """Its batch norm far from the identity that it begins with."""
    torch.manual_seed(0)
    detector = build(replace(SMALL, backbone=backbone), 3)
    for layer in detector.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)
    return detector.eval()


def norms(module: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d) for layer in module.modules())


def assert_same(one: Detector, other: Detector, images: Tensor) -> None:
    with torch.inference_mode():
        a, b = one(images), other(images)
    assert a.quality is not None
    assert b.quality is not None
    for mine, theirs in ((a.logits, b.logits), (a.ltrb, b.ltrb), (a.quality, b.quality)):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("backbone", ["tiny", "resnet18", "resnet50", "efficientnet_lite0"])
def test_outputs_stay_and_batch_norm_goes(backbone: str, frozen: bool) -> None:
    detector = lively(backbone)
    if frozen:
        convert_batch_norm(detector.backbone, "frozen")
    before = norms(detector)
    quick = fuse(detector)
    assert_same(quick, detector, torch.randn(2, 3, 64, 96))
    assert norms(quick) == 0
    assert norms(detector) == before > 0


def test_every_relu_of_a_resnet_joins_its_convolution() -> None:
    quick = fuse(lively("resnet18"))
    assert sum(isinstance(layer, ConvolutionRelu) for layer in quick.backbone.modules()) == 17
    assert not any(isinstance(layer, nn.ReLU) for layer in quick.backbone.modules())


def test_gradients_of_activations_pass() -> None:
    """What explains a detection needs them: there the joined convolution is its parts."""
    detector = lively("resnet18")
    quick = fuse(detector)
    images = torch.randn(2, 3, 64, 64)
    slopes = []
    for one in (detector, quick):
        pixels = images.clone().requires_grad_()
        one(pixels).logits.sum().backward()
        assert pixels.grad is not None
        slopes.append(pixels.grad)
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=1e-3 * slopes[0].abs().max().item())


class Odd(nn.Module):
    """Uses where fusing would be wrong: a convolution seen twice, called twice, and a norm before a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.norm0, self.norm1, self.norm2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.seen, self.called = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding="same")

    def forward(self, x: Tensor) -> Tensor:
        x = self.seen(self.norm0(x))
        y = torch.relu(x) + self.norm1(x)
        return self.norm2(self.called(self.called(y))).relu() + torch.relu(1 + self.seen(y))


class Untraceable(nn.Module):
    """Looks at values to decide, which a tracer can't follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out if out.sum() > 0 else -out


@pytest.mark.parametrize(("stem", "left"), [(Odd, 3), (Untraceable, 0)])
def test_odd_modules_stay_right(stem: type[nn.Module], left: int) -> None:
    detector = lively("tiny")
    parts = detector.backbone.parts
    parts[0] = nn.Sequential(stem(), parts[0])
    for layer in parts[0][0].modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
    detector.eval()
    quick = fuse(detector)
    assert_same(quick, detector, torch.randn(2, 3, 64, 64))
    assert norms(quick) == left


def test_a_neck_is_left_alone_where_nothing_can_be_folded() -> None:
    detector = lively("tiny")
    quick = fuse(detector)
    assert str(quick.neck) == str(detector.neck)
    assert str(quick.head) == str(detector.head)
