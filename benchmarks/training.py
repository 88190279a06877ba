"""A whole training step: ours against torchvision's `fcos_resnet50_fpn` with the same weights, trained as usual.

From uint8 images to the optimizer's end: normalization, forward, assignment, losses, backward, clipping, SGD. The stem
and C2 are frozen on both sides, and so is batch norm; in float32, the losses are the same.
"""

import multiprocessing
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FCOS
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.criterion import highest_memory
from benchmarks.harness import Limit, Measurement
from fcos.criterion import Criterion
from fcos.fast.training_view import training_view
from fcos.structures import make_targets
from fcos.torchvision_weights import TORCHVISION, from_torchvision
from fcos.training.amp import Precision
from fcos.training.optimization import make_optimizer

Side = Callable[[], Tensor]
_LR, _MOMENTUM, _DECAY, _CLIP = 1e-4, 0.9, 1e-4, 10.0
_OBJECTS, _CLASSES = 8, 91  # in each image; torchvision's head for COCO


def sides(
    *,
    images: int,
    height: int,
    width: int,
    device: torch.device | None = None,
    precision: str = "float32",
    compile_model: Callable[[nn.Module], nn.Module] = lambda network: network,
) -> tuple[Side, Side]:
    """Ours and torchvision's: each call is one step, and gives its loss, on its device."""
    device = device or torch.device("cpu")
    model = torchvisions_model(height, width)
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, height, width), dtype=torch.uint8, generator=random)
    boxes, labels = _objects(images, height, width, random)
    ours = _ours(model, pixels.to(device), boxes, labels, precision, compile_model)
    return ours, _torchvisions(model.to(device), pixels.to(device), boxes, labels, precision)


def torchvisions_model(height: int, width: int) -> FCOS:
    """As `fcos_resnet50_fpn` builds it around ImageNet's weights, but for the weights: random ones."""
    torch.manual_seed(0)
    body = resnet50(norm_layer=FrozenBatchNorm2d)
    backbone = _resnet_fpn_extractor(body, 3, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256))
    return FCOS(backbone, _CLASSES, min_size=min(height, width), max_size=max(height, width)).train()


def _objects(images: int, height: int, width: int, random: torch.Generator) -> tuple[list[Tensor], list[Tensor]]:
    limit = torch.tensor([width, height])
    low = torch.rand(images, _OBJECTS, 2, generator=random) * limit * 0.8
    sides = (torch.rand(images, _OBJECTS, 2, generator=random) * 5).exp() + 8
    labels = torch.randint(1, _CLASSES, (images, _OBJECTS), generator=random)
    return list(torch.cat([low, torch.minimum(low + sides, limit)], dim=-1)), list(labels)


def _ours(
    model: FCOS,
    pixels: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    precision: str,
    compile_model: Callable[[nn.Module], nn.Module],
) -> Side:
    device = pixels.device
    detector = from_torchvision(model.state_dict(), range(_CLASSES)).train().to(device)
    network, criterion = compile_model(training_view(detector)), Criterion(TORCHVISION, box_loss="giou")
    optimizer = make_optimizer(detector, name="sgd", lr=_LR, weight_decay=_DECAY, momentum=_MOMENTUM)
    amp = Precision(precision, device)  # type: ignore[arg-type]
    sizes, objects = torch.tensor([pixels.shape[2:]] * len(pixels)).to(device), make_targets(boxes, labels).to(device)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with amp.forward():
            outputs = network(detector.normalize_batch(pixels, sizes))
        loss = criterion(outputs.float(), objects).total
        amp.backward(loss)
        amp.clip_gradients(optimizer, detector, _CLIP)
        amp.step(optimizer)
        return loss.detach()

    return step


def _torchvisions(
    model: FCOS, pixels: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], precision: str
) -> Side:
    device = pixels.device
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=_LR, momentum=_MOMENTUM, weight_decay=_DECAY)
    truth = [
        {"boxes": box.to(device), "labels": label.to(device)} for box, label in zip(boxes, labels, strict=True)
    ]  # fmt: skip
    amp = Precision(precision, device)  # type: ignore[arg-type]

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with amp.forward():
            loss: Tensor = sum(model([image / 255 for image in pixels], truth).values())
        amp.backward(loss)
        amp.clip_gradients(optimizer, model, _CLIP)
        amp.step(optimizer)
        return loss.detach()

    return step


def check_same(ours: Side, theirs: Side) -> None:
    """Both sides' losses in three steps: the weights also change alike.

    Raises:
        AssertionError: they differ.
    """
    for _ in range(3):
        torch.testing.assert_close(ours(), theirs(), rtol=1e-3, atol=1e-4)


def _checked(*, images: int, height: int, width: int) -> tuple[Side, Side]:
    ours, theirs = sides(images=images, height=height, width=width)
    check_same(ours, theirs)
    return ours, theirs


def memory(*, images: int, height: int, width: int) -> float:
    """The peak of our step's memory by torchvision's, each beyond what there was before, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ours, theirs = (pool.apply(_peak, (side, images, height, width)) for side in (0, 1))
    return ours / theirs


def _peak(side: int, images: int, height: int, width: int) -> int:
    """KiB of two steps: from the second on, the optimizer has its state."""
    step = sides(images=images, height=height, width=width)[side]
    before = highest_memory()
    step()
    step()
    return highest_memory() - before


MEASUREMENTS = [
    Measurement(
        "CPU, float32: training step, 2 images of 480×640",
        1.5,
        partial(_checked, images=2, height=480, width=640),
    ),
    Measurement(
        "CPU, float32: training step, 4 images of 320×320",
        1.5,
        partial(_checked, images=4, height=320, width=320),
    ),
]
LIMITS = [
    Limit(
        "CPU: memory of a training step by torchvision's, 2 images of 480×640",
        1.1,
        "times",
        partial(memory, images=2, height=480, width=640),
    )
]
