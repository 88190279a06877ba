"""Backbone, neck and head: shapes, constants, conventions."""

import math
from dataclasses import replace

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from fcos.backbones import BACKBONES, efficientnet_lite
from fcos.config import PAPER
from fcos.detector import Detector, build
from fcos.head import Head
from fcos.necks import FPN

SMALL = replace(
    PAPER, backbone="tiny", pretrained=False, channels=32, tower_depth=1, frozen_stages=0, batch_norm="auto"
)


def image(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_backbones_give_strides_8_16_32_and_the_channels_they_declare(name: str) -> None:
    backbone = BACKBONES[name](pretrained=False).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 70, 100))
    assert [tuple(feature.shape[1:]) for feature in features] == [
        (channels, -(-70 // stride), -(-100 // stride))
        for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]


def test_efficientnet_lite0_knows_a_daisy_and_a_palace() -> None:
    """The whole classifier, on two photographs: architecture, weights, padding and normalisation fit each other."""
    blocks = efficientnet_lite.blocks()
    published = efficientnet_lite._published_weights()
    efficientnet_lite._load(blocks, published)
    top = {}
    for photograph in ("flower.jpg", "china.jpg"):
        pixels = torch.from_numpy(load_sample_image(photograph).copy()).permute(2, 0, 1)[None].float() / 255
        pixels = nn.functional.interpolate(pixels, size=(256, 384), mode="bicubic", antialias=True)[
            :, :, 16:240, 80:304
        ]
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (efficientnet_lite.MEAN, efficientnet_lite.STD))
        with torch.no_grad():
            features = nn.Sequential(*blocks).eval()((pixels - mean) / std)
            features = nn.functional.conv2d(features, published["_conv_head.weight"])
            norm = (published[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
            features = nn.functional.relu6(nn.functional.batch_norm(features, *norm, eps=1e-3)).mean((2, 3))
            top[photograph] = (features @ published["_fc.weight"].T + published["_fc.bias"]).argmax().item()
    daisy, palace = 985, 698  # ImageNet's classes
    assert top == {"flower.jpg": daisy, "china.jpg": palace}


def test_same_padding_is_tensorflows() -> None:
    """At stride 2 on an even side nothing is padded at the left: the first output sees pixels 0, 1, 2."""
    layer = efficientnet_lite.SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(layer.weight)
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    assert layer(ramp)[0, 0, 0].tolist() == [3 * (0 + 1 + 2), 3 * (2 + 3 + 4), 3 * (4 + 5)]


def test_pretrained_batch_norm_is_frozen_and_keeps_its_values() -> None:
    trained = BACKBONES["efficientnet_lite0"](pretrained=True)
    kinds = {type(layer) for layer in trained.modules()}
    assert FrozenBatchNorm2d in kinds
    assert nn.BatchNorm2d not in kinds
    first = next(layer for layer in trained.modules() if isinstance(layer, FrozenBatchNorm2d))
    published = efficientnet_lite._published_weights()
    torch.testing.assert_close(first.running_var, published["_bn0.running_var"])
    assert first.eps == 1e-3


def test_tiny_has_no_pretrained_weights() -> None:
    with pytest.raises(ValueError, match="no ImageNet weights for the backbone tiny"):
        build(replace(SMALL, pretrained=True), 3)


@pytest.mark.parametrize("source", ["p5", "c5"])
def test_fpn_levels_halve_also_on_odd_sizes(source: str) -> None:
    fpn = FPN((8, 16, 24), 16, (3, 4, 5, 6, 7), source)  # type: ignore[arg-type]
    features = [torch.randn(2, c, s, s + 2) for c, s in ((8, 13), (16, 7), (24, 4))]
    assert [tuple(level.shape[1:]) for level in fpn(features)] == [
        (16, 13, 15),
        (16, 7, 9),
        (16, 4, 6),
        (16, 2, 3),
        (16, 1, 2),
    ]


def test_fpn_of_two_levels() -> None:
    fpn = FPN((8, 16, 24), 16, (3, 4), "p5")
    assert len(fpn([torch.randn(1, c, s, s) for c, s in ((8, 8), (16, 4), (24, 2))])) == 2


def test_the_heads_first_probability_is_the_prior() -> None:
    head = Head(channels=32, num_classes=5, depth=1, strides=(8,), box_output="relu")
    logits, _, _ = head([torch.zeros(1, 32, 4, 4)])
    assert logits.sigmoid().tolist()[0][0] == pytest.approx([0.01] * 5)


@pytest.mark.parametrize(("box_output", "expected"), [("relu", [2 * 8 * 1.0, 2 * 16 * 3.0]), ("exp", [1.0, 1.0])])
def test_box_outputs_by_hand(box_output: str, expected: list[float]) -> None:
    """With features of zero the box layer gives its bias: 2 under relu, 0 under exp; the second level's s is 3."""
    head = Head(channels=32, num_classes=1, depth=0, strides=(8, 16), box_output=box_output)  # type: ignore[arg-type]
    with torch.no_grad():
        head.scales.copy_(torch.tensor([1.0, 3.0]))
        _, ltrb, _ = head([torch.zeros(1, 32, 1, 1), torch.zeros(1, 32, 1, 1)])
    assert ltrb[0, :, 0].tolist() == expected


def test_outputs_list_levels_and_rows_in_the_order_of_the_points() -> None:
    """A class layer that looks at one feature only tells where each output comes from."""
    head = Head(channels=8, num_classes=1, depth=0, strides=(8, 16), box_output="relu")
    with torch.no_grad():
        head.class_logits.weight.zero_()
        head.class_logits.weight[0, 0, 1, 1] = 1
        head.class_logits.bias.zero_()
        fine, coarse = torch.zeros(1, 8, 2, 3), torch.zeros(1, 8, 1, 2)
        fine[0, 0], coarse[0, 0] = torch.arange(6.0).view(2, 3), torch.tensor([[6.0, 7.0]])
        logits, _, _ = head([fine, coarse])
    assert logits[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_prepare_normalises_and_pads_with_zero() -> None:
    detector = build(SMALL, 2)
    white = torch.full((3, 40, 33), 255, dtype=torch.uint8)
    batch = detector.prepare([white, image(20, 64)])
    assert batch.shape == (2, 3, 64, 64)
    expected = (1 - torch.tensor(detector.backbone.mean)) / torch.tensor(detector.backbone.std)
    torch.testing.assert_close(batch[0, :, 39, 32], expected)
    assert batch[0, :, 40:].abs().max() == 0
    assert batch[0, :, :, 33:].abs().max() == 0


def test_detector_shapes() -> None:
    detector: Detector = build(SMALL, 7).eval()
    with torch.no_grad():
        outputs = detector(detector.prepare([image(96, 128), image(64, 100)]))
    locations = sum(math.ceil(96 / s) * math.ceil(128 / s) for s in (8, 16, 32, 64, 128))
    assert outputs.logits.shape == (2, locations, 7)
    assert outputs.ltrb.shape == (2, locations, 4)
    assert outputs.quality.shape == (2, locations)
    assert outputs.points.locations.shape == (locations, 2)
    assert (outputs.ltrb >= 0).all()


def test_the_papers_head_has_the_papers_size() -> None:
    """Two towers of four 3×3 convolutions of 256 with group norm, and the three outputs for 80 classes."""
    head = Head(channels=256, num_classes=80, depth=4, strides=(8, 16, 32, 64, 128), box_output="relu")
    tower = 4 * (256 * 256 * 9 + 2 * 256)
    outputs = (80 + 4 + 1) * (256 * 9 + 1)
    assert sum(parameter.numel() for parameter in head.parameters()) == 2 * tower + outputs + 5


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"levels": (3, 5)}, "levels"),
        ({"levels": ()}, "levels"),
        ({"levels": (3, 4, 5, 6, 7, 8)}, "levels"),
        ({"channels": 12}, "channels"),
        ({"tower_depth": -1}, "tower_depth"),
        ({"centre_radius": -0.5}, "centre_radius"),
    ],
)
def test_impossible_configurations(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}: "):
        replace(SMALL, **change)  # type: ignore[arg-type]
