"""Necks: shapes for all levels, small cases worked out by hand, and torchvision's FPN as the reference."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from fcos.config import PAPER, ModelConfig
from fcos.necks import NECKS
from fcos.necks.bifpn import BiFPN, Fusion, Layer
from fcos.necks.fpn import FPN
from fcos.necks.pan import PAN
from fcos.ops.layers import group_norm

SMALL = replace(PAPER, channels=8)
LEVELS = [tuple(range(first, last + 1)) for first in (3, 4, 5) for last in range(first, 8)]


def maps(channels: Sequence[int], height: int, width: int) -> list[Tensor]:
    """Random C3, C4 and C5; C3 is `height` × `width`."""
    sizes = [(-(-height // s), -(-width // s)) for s in (1, 2, 4)]
    return [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]


def identity(neck: nn.Module) -> nn.Module:
    """Sets every convolution of a neck to the identity, without bias."""
    with torch.no_grad():
        for layer in neck.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.dirac_(layer.weight, groups=layer.groups)
                if layer.bias is not None:
                    layer.bias.zero_()
    return neck


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize("levels", LEVELS)
def test_each_level_has_half_the_size_rounded_up(name: str, levels: tuple[int, ...]) -> None:
    for source in ("p5", "c5"):
        config = replace(SMALL, levels=levels, extra_levels_from=source)  # type: ignore[arg-type]
        neck = NECKS[name]((8, 16, 24), config)
        pyramid = neck(maps((8, 16, 24), 13, 21))
        expected = [(2, 8, -(-13 // 2 ** (level - 3)), -(-21 // 2 ** (level - 3))) for level in levels]
        assert [tuple(level.shape) for level in pyramid] == expected


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize("levels", [(3, 4, 5, 6, 7), (3, 4), (5,), (4, 5, 6)])
@pytest.mark.parametrize("upsample_mode", ["nearest", "bilinear"])
def test_every_parameter_has_a_gradient(name: str, levels: tuple[int, ...], upsample_mode: Any) -> None:
    """With several processes, DDP would wait for the gradients of parameters that no level uses."""
    torch.manual_seed(0)
    config = replace(SMALL, levels=levels, upsample_mode=upsample_mode, neck_norm="batch", neck_activation="silu")
    neck = NECKS[name]((8, 16, 24), config)
    sum((level * torch.randn_like(level)).sum() for level in neck(maps((8, 16, 24), 16, 16))).backward()
    assert all(parameter.grad is not None for parameter in neck.parameters())


@pytest.mark.parametrize("source", ["p5", "c5"])
def test_fpn_equals_torchvisions(source: Any) -> None:
    ours = FPN((8, 16, 24), replace(SMALL, extra_levels_from=source))
    theirs = FeaturePyramidNetwork([8, 16, 24], 8, LastLevelP6P7(8 if source == "p5" else 24, 8))
    state = ours.state_dict()
    renamed = {"lateral.{}.": "inner_blocks.{}.0.", "output.{}.": "layer_blocks.{}.0."}
    names = {new.format(i): old.format(i) for old, new in renamed.items() for i in range(3)}
    names |= {"extra_blocks.p6.": "extra.0.", "extra_blocks.p7.": "extra.1."}
    theirs.load_state_dict({new + end: state[old + end] for new, old in names.items() for end in ("weight", "bias")})
    features = maps((8, 16, 24), 13, 21)
    expected = theirs(OrderedDict(zip("345", features, strict=True)))
    for level, reference in zip(ours(features), expected.values(), strict=True):
        assert torch.equal(level, reference)


def test_fpn_by_hand() -> None:
    """C3 of ones, C4 = [10, 20], C5 = [100]: P5 = 100, P4 = C4 + P5, P3 = C3 + P4, with nearest upsampling."""
    fpn = identity(FPN((8, 8, 8), replace(SMALL, levels=(3, 4, 5))))
    features = [torch.ones(1, 8, 1, 4), torch.tensor([10.0, 20]).expand(1, 8, 1, 2), torch.full((1, 8, 1, 1), 100.0)]
    p3, p4, p5 = (level[0, 3, 0].tolist() for level in fpn(features))
    assert (p3, p4, p5) == ([111, 111, 121, 121], [110, 120], [100])


def test_bilinear_by_hand() -> None:
    """[0, 8] upsampled to four cells, at positions −¼, ¼, ¾ and 1¼, is 0, 2, 6, 8."""
    config = replace(SMALL, levels=(3, 4), upsample_mode="bilinear")
    fpn = identity(FPN((8, 8, 8), config))
    p3, _ = fpn([torch.ones(1, 8, 2, 4), torch.tensor([0.0, 8]).expand(1, 8, 1, 2), torch.zeros(1, 8, 1, 1)])
    assert p3[0, 0].tolist() == [[1, 3, 7, 9]] * 2


def test_a_pyramid_without_p5_uses_c5() -> None:
    fpn = identity(FPN((8, 8, 8), replace(SMALL, levels=(3,))))
    [p3] = fpn([torch.ones(1, 8, 4, 4), torch.zeros(1, 8, 2, 2), torch.full((1, 8, 1, 1), 5.0)])
    assert p3[0, 0].tolist() == [[6.0] * 4] * 4


@pytest.mark.parametrize("source", ["p5", "c5"])
def test_extra_levels_by_hand(source: Any) -> None:
    """P6: cells 0, 2 and 4 of P5 = C5 + 10 or of C5 = [-1, …, -5]; P7: cells 0 and 2 of relu(P6)."""
    fpn = identity(FPN((8, 8, 8), replace(SMALL, levels=(5, 6, 7), extra_levels_from=source)))
    nn.init.constant_(fpn.lateral[0].bias, 10)
    c5 = -torch.arange(1.0, 6).expand(1, 8, 1, 5)
    p5, p6, p7 = (level[0, 0, 0].tolist() for level in fpn([torch.zeros(1, 8, 4, 20), torch.zeros(1, 8, 2, 10), c5]))
    assert p5 == [9, 8, 7, 6, 5]
    assert p6 == ([9, 7, 5] if source == "p5" else [-1, -3, -5])
    assert p7 == ([9, 5] if source == "p5" else [0, 0])


def test_pan_by_hand() -> None:
    """Constant maps: P3 = 1 + 110, P4 = 10 + 100, P5 = 100; N3 = P3, N4 = P4 + N3, N5 = P5 + N4, N6 = P6 + N5."""
    pan = identity(PAN((8, 8, 8), replace(SMALL, levels=(3, 4, 5, 6))))
    features = [torch.full((1, 8, s, s), value) for s, value in ((4, 1.0), (2, 10.0), (1, 100.0))]
    assert [level[0, 0, 0, 0].item() for level in pan(features)] == [111, 221, 321, 421]


def test_fusion_by_hand() -> None:
    """Σ wᵢ·xᵢ / (ε + Σ wᵢ) with ε = 10⁻⁴; negative weights count as 0."""
    fusion = identity(Fusion(3, SMALL))
    with torch.no_grad():
        fusion.weights.copy_(torch.tensor([1.0, -2.0, 3.0]))
    fused = fusion([torch.full((1, 8, 2, 2), value) for value in (4.0, 100.0, 8.0)])
    torch.testing.assert_close(fused, torch.full((1, 8, 2, 2), (1 * 4 + 3 * 8) / (4 + 1e-4)))


def slow_layer(layer: Layer, inputs: Sequence[Tensor], outputs: int) -> list[Tensor]:
    """The equations of EfficientDet's section 3.3, written out for five levels."""
    p3, p4, p5, p6, p7 = inputs

    def fuse(fusion: Fusion, *maps: Tensor) -> Tensor:
        weights = [max(weight, 0.0) for weight in fusion.weights.tolist()]
        mixed = sum(weight * map for weight, map in zip(weights, maps, strict=True)) / (sum(weights) + 1e-4)
        return fusion.pointwise(fusion.depthwise(mixed))  # type: ignore[no-any-return]

    def up(coarse: Tensor, fine: Tensor) -> Tensor:
        return F.interpolate(coarse, size=fine.shape[-2:])

    def down(fine: Tensor) -> Tensor:
        return F.max_pool2d(fine, 3, 2, 1)

    to_p3, to_p4, to_p5, to_p6 = layer.top_down
    td6 = fuse(to_p6, p6, up(p7, p6))
    td5 = fuse(to_p5, p5, up(td6, p5))
    td4 = fuse(to_p4, p4, up(td5, p4))
    out3 = fuse(to_p3, p3, up(td4, p3))
    out = [out3]
    for fusion, level, top_down in zip(layer.bottom_up, (p4, p5, p6, p7), ((td4,), (td5,), (td6,), ()), strict=False):
        out.append(fuse(fusion, level, *top_down, down(out[-1])))
    return out[:outputs]


@pytest.mark.parametrize("outputs", [5, 2])
def test_bifpn_layer_equals_the_papers_equations(outputs: int) -> None:
    torch.manual_seed(3)
    layer = Layer(5, outputs, replace(SMALL, neck_norm="group", neck_activation="silu"))
    for name, parameter in layer.named_parameters():
        if name.endswith("weights"):
            nn.init.normal_(parameter)
    inputs = [torch.randn(2, 8, *size) for size in ((17, 24), (9, 12), (5, 6), (3, 3), (2, 2))]
    levels = layer(inputs)
    assert len(levels) == outputs
    for level, expected in zip(levels, slow_layer(layer, inputs, outputs), strict=True):
        torch.testing.assert_close(level, expected)


def test_bifpn_of_equal_inputs_returns_them() -> None:
    """The weighted means of equal maps differ from them only by ε."""
    bifpn = identity(BiFPN((8, 8, 8), replace(SMALL, levels=(3, 4, 5, 6))))
    for level in bifpn([torch.full((1, 8, s, s), 3.0) for s in (8, 4, 2)]):
        torch.testing.assert_close(level, torch.full_like(level, 3.0), rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize(("norm", "norms"), [("none", ()), ("group", (nn.GroupNorm,)), ("batch", (nn.BatchNorm2d,))])
@pytest.mark.parametrize(("activation", "activations"), [("none", ()), ("relu", (nn.ReLU,)), ("silu", (nn.SiLU,))])
def test_norm_and_activation_follow_each_convolution(
    name: str, norm: Any, norms: tuple[type, ...], activation: Any, activations: tuple[type, ...]
) -> None:
    neck = NECKS[name]((8, 16, 24), replace(SMALL, neck_norm=norm, neck_activation=activation))
    layers = [layer for layer in neck.modules() if not list(layer.children())]
    # The two layers of a depthwise separable convolution count as one.
    convolutions = sum(isinstance(layer, nn.Conv2d) and layer.groups == 1 for layer in layers)
    for expected, all_types in ((norms, (nn.GroupNorm, nn.BatchNorm2d)), (activations, (nn.ReLU, nn.SiLU))):
        assert sum(isinstance(layer, all_types) for layer in layers) == (convolutions if expected else 0)
        assert all(type(layer) in expected for layer in layers if isinstance(layer, all_types))


def test_relu_comes_after_the_norm() -> None:
    config: ModelConfig = replace(SMALL, levels=(3,), neck_norm="group", neck_activation="relu")
    [p3] = FPN((8, 8, 8), config)(maps((8, 8, 8), 8, 8))
    assert p3.min() == 0
    assert p3.max() > 0


@pytest.mark.parametrize(("channels", "groups"), [(256, 32), (64, 32), (32, 16), (8, 4), (96, 32), (40, 8)])
def test_a_group_has_at_least_two_channels(channels: int, groups: int) -> None:
    """So a map of one cell, such as P7 of a small image, can be normalized."""
    norm = group_norm(channels)
    assert norm.num_groups == groups
    assert norm(torch.randn(1, channels, 1, 1)).abs().max() > 0
