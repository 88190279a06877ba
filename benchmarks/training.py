"""A whole training step, compared with torchvision's FCOS around the same backbone with the same weights.

A step leads from uint8 images to updated weights: normalization, forward pass, assignment, losses, backward pass,
clipping, SGD. The stem, C2 and all batch norms are frozen on both sides. In float32, both sides have the same losses.
On a CPU the backbone is EfficientNet-Lite0, which people train there; on a GPU it is ResNet-50.
"""

import multiprocessing
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.criterion import peak_memory
from benchmarks.harness import Limit, Measurement
from fcos.backbones import Backbone
from fcos.criterion import Criterion
from fcos.detector import Detector, batch_images, build
from fcos.fast.training_view import training_view
from fcos.structures import make_targets
from fcos.torchvision_weights import TORCHVISION, from_torchvision, rename_tensor
from fcos.training.amp import Precision
from fcos.training.optimization import make_optimizer

Side = Callable[[], Tensor]
_LR, _MOMENTUM, _DECAY, _CLIP = 1e-4, 0.9, 1e-4, 10.0
_OBJECTS, CLASSES = 8, 91  # objects in each image; classes of torchvision's head for COCO
# Channels as in the recipe cpu_lite0. Pretrained, since random weights with frozen batch norm give denormal numbers,
# which are slow on a CPU.
LITE0 = replace(TORCHVISION, backbone="efficientnet_lite0", pretrained=True, batch_norm="frozen", channels=96)


def sides(
    *,
    images: int,
    height: int,
    width: int,
    backbone: str = "resnet50",
    device: torch.device | None = None,
    precision: str = "float32",
    compile_model: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> tuple[Side, Side]:
    """Our side and torchvision's: each call runs one step and returns its loss, on its device."""
    device = device or torch.device("cpu")
    detector, model = MODELS[backbone](height, width)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, generator=random)
    boxes, labels = _objects(images, height, width, random)
    ours = our_step(detector.to(device), pixels.to(device), boxes, labels, precision, compile_model)
    return ours, _their_step(model.to(device), pixels.to(device), boxes, labels, precision)


def view_sides(*, images: int, height: int, width: int) -> tuple[Side, Side]:
    """Our step with EfficientNet-Lite0, once with the weight-sharing training view and once with the plain detector."""
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, generator=random)
    boxes, labels = _objects(images, height, width, random)

    def side(make_network: Callable[[Detector], nn.Module]) -> Side:
        detector, _ = lite0_models(height, width)
        return our_step(detector, pixels, boxes, labels, "float32", lambda network: network, make_network)

    return side(training_view), side(lambda detector: detector)


class Pyramid(nn.Module):
    """torchvision's feature pyramid on one of our backbones, as torchvision's FCOS expects it: P3 to P5, or to P7."""

    def __init__(self, backbone: Backbone, channels: int, *, extra_levels: bool = True) -> None:
        super().__init__()
        self.body, self.out_channels = backbone, channels
        extra = LastLevelP6P7(channels, channels) if extra_levels else None
        self.fpn = FeaturePyramidNetwork(list(backbone.channels), channels, extra_blocks=extra)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, H, W] to P3 … P7."""
        features: dict[str, Tensor] = self.fpn(OrderedDict(zip("345", self.body(images), strict=True)))
        return features


def lite0_models(height: int, width: int) -> tuple[Detector, FCOS]:
    """A detector with EfficientNet-Lite0 and ImageNet weights, and torchvision's FCOS with the same weights."""
    torch.manual_seed(0)
    detector = build(LITE0, CLASSES)
    model = FCOS(
        Pyramid(deepcopy(detector.backbone), LITE0.channels),
        CLASSES,
        min_size=min(height, width),
        max_size=max(height, width),
        image_mean=list(detector.backbone.mean),
        image_std=list(detector.backbone.std),
    )
    state = detector.state_dict()
    shared = {rename_tensor(name): tensor for name, tensor in model.state_dict().items() if "body" not in name}
    assert shared.keys() <= state.keys()
    detector.load_state_dict(state | shared)
    return detector.train(), model.train()


def resnet50_models(height: int, width: int) -> tuple[Detector, FCOS]:
    """`fcos_resnet50_fpn` with random weights, and the detector with the same weights."""
    model = torchvision_model(height, width)
    return from_torchvision(model.state_dict(), range(CLASSES)).train(), model


MODELS = {"resnet50": resnet50_models, "efficientnet_lite0": lite0_models}


def torchvision_model(height: int, width: int) -> FCOS:
    """`fcos_resnet50_fpn` with frozen batch norm, as torchvision builds it for ImageNet weights, but random weights."""
    torch.manual_seed(0)
    body = resnet50(norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(body, 3, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return FCOS(backbone, CLASSES, min_size=min(height, width), max_size=max(height, width)).train()


def _objects(images: int, height: int, width: int, random: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    limit = torch.tensor([width, height])
    low = torch.rand(images, _OBJECTS, 2, generator=random) * limit * 0.8
    sides = (torch.rand(images, _OBJECTS, 2, generator=random) * 5).exp() + 8
    labels = torch.randint(1, CLASSES, (images, _OBJECTS), generator=random)
    return list(torch.cat([low, torch.minimum(low + sides, limit)], dim=-1)), list(labels)


def our_step(
    detector: Detector,
    pixels: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    precision: str,
    compile_model: Callable[[nn.Module], nn.Module],
    make_network: Callable[[Detector], nn.Module] = training_view,
) -> Side:
    device = pixels.device
    network, criterion = compile_model(make_network(detector)), Criterion(detector.config, box_loss="giou")
    optimizer = make_optimizer(detector, name="sgd", lr=_LR, weight_decay=_DECAY, momentum=_MOMENTUM)
    amp = Precision(precision, device)  # type: ignore[arg-type]
    batch, sizes = (tensor.to(device) for tensor in batch_images(list(pixels.cpu())))
    targets = make_targets(boxes, labels).to(device)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with amp.forward():
            outputs = network(detector.normalize_batch(batch, sizes))
        loss = criterion(outputs.float(), targets).total
        amp.backward(loss)
        amp.clip_gradients(optimizer, detector, _CLIP)
        amp.step(optimizer)
        return loss.detach()

    return step


def _their_step(model: FCOS, pixels: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], precision: str) -> Side:
    device = pixels.device
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=_LR, momentum=_MOMENTUM, weight_decay=_DECAY)
    targets = [
        {"boxes": box.to(device), "labels": label.to(device)} for box, label in zip(boxes, labels, strict=True)
    ]  # fmt: skip
    amp = Precision(precision, device)  # type: ignore[arg-type]

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with amp.forward():
            loss: Tensor = sum(model([image / 255 for image in pixels], targets).values())
        amp.backward(loss)
        amp.clip_gradients(optimizer, model, _CLIP)
        amp.step(optimizer)
        return loss.detach()

    return step


def check_same(ours: Side, theirs: Side) -> None:
    """Compares both sides' losses in three steps, which also compares the updates of the weights.

    Raises:
        AssertionError: the losses differ.
    """
    for _ in range(3):
        torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-4)


def _checked(make_sides: Callable[[], tuple[Side, Side]]) -> tuple[Side, Side]:
    ours, theirs = make_sides()
    check_same(ours, theirs)
    return ours, theirs


def memory(*, images: int, height: int, width: int) -> float:
    """Peak memory of our step divided by torchvision's, each measured in a separate process."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours, theirs = (pool.apply(_peak_memory, (side, images, height, width)) for side in (0, 1))
    return ours / theirs


def _peak_memory(side: int, images: int, height: int, width: int) -> int:
    """Peak memory of two steps in KiB; the optimizer's state exists from the second on."""
    step = sides(images=images, height=height, width=width, backbone="efficientnet_lite0")[side]
    before = peak_memory()
    step()
    step()
    return peak_memory() - before


_SHAPE = {"images": 8, "height": 312, "width": 416}
MEASUREMENTS = [
    Measurement(
        "CPU, float32: training step, EfficientNet-Lite0, 8 images of 312×416",
        1.1,
        partial(_checked, partial(sides, **_SHAPE, backbone="efficientnet_lite0")),  # type: ignore[arg-type]
    ),
    Measurement(
        "CPU, float32: the same step with the training view, compared with the plain detector",
        1.0,
        partial(_checked, partial(view_sides, **_SHAPE)),
    ),
]
LIMITS = [
    Limit(
        "CPU: memory of a training step, relative to torchvision's, EfficientNet-Lite0, 8 images of 312×416",
        1.1,
        "times",
        partial(memory, **_SHAPE),
    )
]
