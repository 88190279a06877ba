"""Assignment and losses, forward and backward: ours against torchvision's own, on the same random predictions."""

import multiprocessing
from collections.abc import Callable
from dataclasses import replace
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

CONFIG = replace(
    PAPER, pretrained=False, locations="torchvision", box_loss_weighting="none"
)  # torchvision's conventions
Side = Callable[[], tuple[dict[str, Tensor], list[Tensor]]]


def sides(*, images: int, objects: int, pixels: int, classes: int = 91, seed: int = 0) -> tuple[Side, Side]:
    """Ours and torchvision's: each call goes forward and backward.

    Args:
        images: in the batch.
        objects: in each image.
        pixels: width and height of each image.
        classes: K.

    Returns:
        Two functions without arguments, which give the losses by name (classification, box, quality), and their sum's
        gradient with respect to the class logits, the distances in strides, and the centerness logits.
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
    places = make_locations(shapes, CONFIG.strides, mode=CONFIG.locations)
    criterion, batch = Criterion(CONFIG, box_loss="giou"), make_targets(list(boxes), list(labels))

    def side() -> tuple[dict[str, Tensor], list[Tensor]]:
        ltrb = distances * places.strides[:, None]
        losses = criterion(Outputs(logits, ltrb, quality.squeeze(-1), places), batch)
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
    truth = [{"boxes": box, "labels": label} for box, label in zip(boxes, labels, strict=True)]
    counts = [height * width for height, width in shapes]

    def side() -> tuple[dict[str, Tensor], list[Tensor]]:
        losses = model.compute_loss(truth, outputs, anchors, counts)
        gradients = torch.autograd.grad(sum(losses.values()), predicted)
        names = {"classification": "classification", "box": "bbox_regression", "quality": "bbox_ctrness"}
        return {name: losses[theirs].detach() for name, theirs in names.items()}, list(gradients)

    return side


def assignment_memory(assigner: str, *, images: int = 16, objects: int = 300, pixels: int = 640) -> float:
    """GiB that an assignment takes at its peak beyond what there was before, in a process of its own."""
    # A new process: the peak of this one may already lie higher.
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (assigner, images, objects, pixels))


def _peak(assigner: str, images: int, objects: int, pixels: int) -> float:
    places = make_locations([(-(-pixels // s), -(-pixels // s)) for s in PAPER.strides], PAPER.strides)
    count, generator = len(places.xy), torch.Generator().manual_seed(0)
    outputs = Outputs(
        torch.zeros(images, count, 80), torch.rand(images, count, 4, generator=generator) * 64, None, places
    )
    corners = torch.rand(images, objects, 2, generator=generator) * pixels * 0.8
    boxes = torch.cat([corners, corners + 4 + 120 * torch.rand(images, objects, 2, generator=generator)], dim=-1)
    batch = make_targets(list(boxes), [torch.zeros(objects, dtype=torch.int64)] * images)
    before = highest_memory()
    ASSIGNERS[assigner](outputs, batch, PAPER)
    return (highest_memory() - before) / 2**20


def highest_memory() -> int:
    """KiB that this process ever had in memory. (getrusage would count what its parent had when it was made.)"""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1])


def _with(objects: int) -> Callable[[], tuple[Side, Side]]:
    return lambda: sides(images=16, objects=objects, pixels=800)


def _memory_of(assigner: str) -> Callable[[], float]:
    return lambda: assignment_memory(assigner)


MEASUREMENTS = [
    Measurement("assignment and losses, forward and backward: 16 images of 800 px, 20 objects each", 4.0, _with(20)),
    Measurement("assignment and losses, forward and backward: 16 images of 800 px, 200 objects each", 4.0, _with(200)),
]
LIMITS = [
    Limit(f"memory of assignment, {name}: 16 images of 640 px, 300 objects each", 1.0, "GiB", _memory_of(name))
    for name in ASSIGNERS
]
