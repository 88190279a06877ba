"""Assignment and losses, forward and backward, compared with torchvision's on the same random predictions."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import fcos_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from benchmarks.harness import Limit, Measurement
from fcos.assigners import ASSIGNERS
from fcos.config import PAPER
from fcos.criterion import Criterion
from fcos.locations import make_locations
from fcos.structures import Outputs, make_targets

# torchvision's conventions
CONFIG = replace(PAPER, pretrained=False, locations="torchvision", box_loss_weighting="none")
Side = Callable[[], tuple[dict[str, Tensor], list[Tensor]]]


def sides(*, images: int, objects: int, pixels: int, classes: int = 91, seed: int = 0) -> tuple[Side, Side]:
    """Our side and torchvision's: each call runs a forward and a backward pass.

    Args:
        images: number of images in the batch.
        objects: number of objects in each image.
        pixels: width and height of each image.
        classes: K.

    Returns:
        Two functions without arguments. Each returns the losses by name (classification, box, quality), and the
        gradients of their sum with respect to the class logits, the distances in strides and the centerness logits.
    """
    generator = torch.Generator().manual_seed(seed)
    shapes = [(-(-pixels // stride), -(-pixels // stride)) for stride in CONFIG.strides]
    count = sum(height * width for height, width in shapes)
    predicted = [
        torch.randn(images, count, classes, generator=generator) - 4,
        torch.rand(images, count, 4, generator=generator) * 6,
        torch.randn(images, count, 1, generator=generator),
    ]
    corners = torch.rand(images, objects, 2, generator=generator) * pixels * 0.8
    lengths = (torch.rand(images, objects, 2, generator=generator) * 5.5).exp() + 4
    boxes = torch.cat([corners, (corners + lengths).clamp(max=pixels)], dim=-1)
    labels = torch.randint(classes, (images, objects), generator=generator)
    for tensor in predicted:
        tensor.requires_grad_()
    return _ours(predicted, boxes, labels, shapes), _torchvisions(predicted, boxes, labels, shapes, pixels)


def _ours(predicted: list[Tensor], boxes: Tensor, labels: Tensor, shapes: list[tuple[int, int]]) -> Side:
    logits, distances, quality = predicted
    locations = make_locations(shapes, CONFIG.strides, mode=CONFIG.locations)
    criterion, targets = Criterion(CONFIG, box_loss="giou"), make_targets(list(boxes), list(labels))

    def side() -> tuple[dict[str, Tensor], list[Tensor]]:
        ltrb = distances * locations.strides[:, None]
        losses = criterion(Outputs(logits, ltrb, quality.squeeze(-1), locations), targets)
        gradients = torch.autograd.grad(losses.total, predicted)
        return {name: getattr(losses, name).detach() for name in ("classification", "box", "quality")}, list(gradients)

    return side


def _torchvisions(
    predicted: list[Tensor], boxes: Tensor, labels: Tensor, shapes: list[tuple[int, int]], pixels: int
) -> Side:
    logits, distances, quality = predicted
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=logits.shape[-1])
    maps = [torch.zeros(1, 1, *shape) for shape in shapes]
    padded = torch.zeros(1, 1, shapes[0][0] * CONFIG.strides[0], shapes[0][1] * CONFIG.strides[0])
    anchors = model.anchor_generator(ImageList(padded, [(pixels, pixels)] * len(boxes)), maps)
    outputs = {"cls_logits": logits, "bbox_regression": distances, "bbox_ctrness": quality}
    targets = [{"boxes": box, "labels": label} for box, label in zip(boxes, labels, strict=True)]
    counts = [height * width for height, width in shapes]

    def side() -> tuple[dict[str, Tensor], list[Tensor]]:
        losses = model.compute_loss(targets, outputs, anchors, counts)
        gradients = torch.autograd.grad(sum(losses.values()), predicted)
        names = {"classification": "classification", "box": "bbox_regression", "quality": "bbox_ctrness"}
        return {name: losses[theirs].detach() for name, theirs in names.items()}, list(gradients)

    return side


def assignment_memory(assigner: str, *, images: int = 16, objects: int = 300, pixels: int = 640) -> float:
    """Increase of peak memory by an assignment, in GiB, measured in a new process."""
    # The peak of the current process may already be higher.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_assignment_peak, (assigner, images, objects, pixels))


def _assignment_peak(assigner: str, images: int, objects: int, pixels: int) -> float:
    shapes = [(-(-pixels // stride), -(-pixels // stride)) for stride in PAPER.strides]
    locations = make_locations(shapes, PAPER.strides)
    count, generator = len(locations.xy), torch.Generator().manual_seed(0)
    ltrb = torch.rand(images, count, 4, generator=generator) * 64
    outputs = Outputs(torch.zeros(images, count, 80), ltrb, None, locations)
    corners = torch.rand(images, objects, 2, generator=generator) * pixels * 0.8
    boxes = torch.cat([corners, corners + 4 + 120 * torch.rand(images, objects, 2, generator=generator)], dim=-1)
    targets = make_targets(list(boxes), [torch.zeros(objects, dtype=torch.int64)] * images)
    before = peak_memory()
    ASSIGNERS[assigner](outputs, targets, PAPER)
    return (peak_memory() - before) / 2**20


def peak_memory() -> int:
    """Peak resident memory of this process, in KiB. (getrusage's maximum includes that of the parent process.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


MEASUREMENTS = [
    Measurement(
        f"assignment and losses, forward and backward: 16 images of 800 px, {objects} objects each",
        4.0,
        partial(sides, images=16, objects=objects, pixels=800),
    )
    for objects in (20, 200)
]
LIMITS = [
    Limit(
        f"memory of assignment, {name}: 16 images of 640 px, 300 objects each",
        1.0,
        "GiB",
        partial(assignment_memory, name),
    )
    for name in ASSIGNERS
]
