"""The weight-sharing training view has the same gradients as the detector."""

import statistics
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fcos.config import PAPER
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.fast.training_view import FoldedConvolution, training_view
from fcos.ops.layers import FrozenBatchNorm2d
from fcos.structures import make_targets
from tests.support.device_sync import NoSynchronization

SMALL = replace(
    PAPER, backbone="resnet18", pretrained=False, batch_norm="frozen", frozen_stages=2, channels=128, tower_depth=2
)
CONFIGS = {
    "frozen": SMALL,
    "trained": replace(SMALL, batch_norm="trained"),
    "batch": replace(SMALL, neck_norm="batch", head_norm="batch", neck_activation="relu", tower_channels=160),
    "bare": replace(SMALL, tower_depth=0, quality="none", box_loss_weighting="none"),
    "bottleneck": replace(SMALL, backbone="resnet50", tower_depth=1),
    "mobilenet_v3": replace(SMALL, backbone="mobilenet_v3_large", channels=64, tower_depth=1),
    "lite0": replace(
        SMALL, backbone="efficientnet_lite0", channels=64, tower_depth=1, neck="bifpn", tower_convolution="depthwise"
    ),
}


def random_detector(name: str) -> Detector:
    """A detector with random batch norms, which are initially the identity."""
    torch.manual_seed(0)
    detector = build(CONFIGS[name], 3)
    for layer in detector.backbone.modules():
        if isinstance(layer, nn.BatchNorm2d | FrozenBatchNorm2d):
            for tensor, low, high in (
                (layer.weight, 0.5, 1.2),
                (layer.bias, -0.3, 0.3),
                (layer.running_mean, -0.3, 0.3),
                (layer.running_var, 0.7, 1.5),
            ):
                nn.init.uniform_(tensor, low, high)  # type: ignore[arg-type]
    return detector.train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (2, 3, 128, 192), dtype=torch.uint8, generator=generator)
    return pixels, torch.tensor([[128, 192]] * 2)


def gradients(detector: Detector, network: nn.Module) -> dict[str, Tensor]:
    """The gradients of the loss, by the names of the detector's parameters."""
    boxes = torch.tensor([[10.0, 20.0, 70.0, 90.0], [60.0, 30.0, 150.0, 120.0]])
    targets = make_targets([boxes, boxes[:1]], [torch.tensor([0, 2]), torch.tensor([1])])
    detector.zero_grad()
    outputs = network(detector.normalize_batch(*batch()))
    Criterion(detector.config, box_loss="giou")(outputs, targets).total.backward()
    return {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CONFIGS)
def test_same_gradients(name: str) -> None:
    detector = random_detector(name)
    expected, actual = gradients(detector, detector), gradients(detector, training_view(detector))
    assert expected.keys() == actual.keys()
    assert sum(gradient.abs().sum() > 0 for gradient in expected.values()) > len(expected) / 2
    largest = max(float(gradient.norm()) for gradient in expected.values())
    # Rounding may open a ReLU in only one of them, which changes gradients: both differ from float64 by up to 2e-3.
    for parameter, gradient in expected.items():
        difference = (actual[parameter] - gradient).norm()
        assert difference <= 5e-3 * gradient.norm() + 1e-5 * largest, parameter
    errors = [
        float((actual[name] - gradient).norm() / gradient.norm())
        for name, gradient in expected.items()
        if gradient.norm() > 0
    ]
    assert statistics.median(errors) < 1e-3


def test_every_frozen_norm_is_folded() -> None:
    network = training_view(random_detector("bottleneck"))
    assert not any(isinstance(layer, nn.Conv2d) for layer in network.backbone.parts[1].children())
    folded = [layer for layer in network.modules() if isinstance(layer, FoldedConvolution)]
    assert len(folded) == 53
    network = training_view(random_detector("lite0"))  # with TensorFlow's padding at stride 2
    assert not any(
        isinstance(layer, FrozenBatchNorm2d) and "norm" not in name for name, layer in network.named_modules()
    )


def nodes(output: Tensor) -> set[str]:
    """The names of all operations that autograd will run backward."""
    names, known, waiting = set[str](), set[object](), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in known:
            known.add(node)
            names.add(type(node).__name__)
            waiting += [following for following, _ in node.next_functions]
    return names


@pytest.mark.parametrize(
    ("backbone", "batch_norm"),
    [
        ("efficientnet_lite0", "frozen"),
        ("efficientnet_lite0", "trained"),
        ("mobilenet_v3_large", "trained"),
        ("timm:tf_efficientnet_lite0", "trained"),
        ("timm:mobilenetv3_large_100", "frozen"),
    ],
)
def test_slow_gradients_are_replaced(backbone: str, batch_norm: str) -> None:
    torch.manual_seed(0)
    config = replace(CONFIGS["lite0"], backbone=backbone, batch_norm=batch_norm, frozen_stages=0)
    detector = build(config, 3).to(memory_format=torch.channels_last).train()
    network = training_view(detector)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network(detector.normalize_batch(*batch()))
    found = nodes(outputs.logits)
    assert "_DepthwiseConvolutionBackward" in found
    assert "_GroupNormBackward" in found
    assert "NativeGroupNormBackward0" not in found
    for name, layer in network.named_modules():
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels == layer.out_channels > 1
        if depthwise or isinstance(layer, nn.GroupNorm):
            assert name.endswith(".layer"), name


def test_same_gradients_in_bf16() -> None:
    """Within twice what bf16 itself changes."""
    detector = random_detector("lite0")
    exact = gradients(detector, detector)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, actual = gradients(detector, detector), gradients(detector, training_view(detector))

    def error(found: dict[str, Tensor]) -> float:
        return statistics.median(
            float((found[name] - gradient).norm() / gradient.norm())
            for name, gradient in exact.items()
            if gradient.norm() > 0
        )

    assert 0 < error(actual) < 2 * error(rounded)


def test_parameters_buffers_and_mode_are_shared() -> None:
    detector = random_detector("trained")
    before = dict(detector.state_dict())
    network = training_view(detector)
    assert {id(p) for p in network.parameters()} == {id(p) for p in detector.parameters()}
    assert {id(b) for b in network.buffers()} == {id(b) for b in detector.buffers()}
    assert list(detector.state_dict()) == list(before)
    counter = detector.backbone.parts[2][0].bn1.num_batches_tracked
    network(detector.normalize_batch(*batch()))
    assert counter == 1
    detector.eval()  # the view uses the mode of the detector's layers
    network(detector.normalize_batch(*batch()))
    assert counter == 1


def test_frozen_weights_may_be_loaded_later() -> None:
    detector = random_detector("frozen")
    network = training_view(detector)
    detector.load_state_dict({name: tensor * 1.1 for name, tensor in detector.state_dict().items()})
    images = detector.normalize_batch(*batch())
    with torch.no_grad():
        actual, expected = network(images), detector(images)
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-4, atol=1e-4)


def test_no_operation_synchronizes_with_the_device() -> None:
    detector = random_detector("frozen")
    network = training_view(detector)
    images = detector.normalize_batch(*batch())
    with NoSynchronization():
        network(images).logits.sum().backward()
