"""`fcos summary`: what a detector is made of, what it costs, and the best that its assignment allows."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fcos.assigners import ASSIGNERS
from fcos.config import ModelConfig
from fcos.criterion import Criterion
from fcos.detector import Detector, build
from fcos.structures import make_targets
from fcos.training.optimization import make_optimizer
from pipeline.analysis.assignment import NEEDS_PREDICTIONS, by_level, level_name, places, unpredicted
from pipeline.data import annotations
from pipeline.data.annotations import Annotation, AnnotationSet
from pipeline.data.boxes import box_tensor
from pipeline.errors import PipelineError, count_noun
from pipeline.loading.dataset import trainable_annotations
from pipeline.params import Params

_TRAIN = "data/unified/train.json"
COCO_CLASSES = 80  # assumed where no data set tells
# COCO's borders between small, medium and large objects: area in square pixels of the image as stored.
_SIZES = {"small": (-math.inf, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, math.inf)}
_TOGETHER = 2**22  # pairs of location and object that are assigned at once


@dataclass(frozen=True)
class Row:
    """One part of a detector, at one image."""

    name: str
    output: str  # channels × height × width
    parameters: int
    flops: int


@dataclass(frozen=True)
class Network:
    """A detector's parts and its costs."""

    rows: tuple[Row, ...]
    input: tuple[int, int]  # height and width, padded
    parameters: int
    learned: int  # parameters that aren't frozen
    flops: int  # 2 × multiply-adds of one image through it; convolutions and matrix products, no norms
    locations: int


@dataclass(frozen=True)
class Memory:
    """Bytes that a training step holds, in float32."""

    weights: int  # and statistics of norms
    gradients: int
    optimizer: int  # its state
    average: int  # the weights' moving average
    activations: int  # kept from the forward pass and the loss for the backward pass
    batch: int

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.average + self.activations


@dataclass(frozen=True)
class Recall:
    """Best possible recall: the share of objects that at least one location learns (ICCV paper, section 4.1.1)."""

    objects: dict[str, int]  # all, small, medium, large
    learned: dict[str, int]  # of these, with a positive location
    levels: dict[str, int]  # objects that each level learns; one may be learned by several
    positives: int  # locations
    images: int


def blank(model: ModelConfig, classes: int) -> Detector:
    """The detector without its numbers, on torch's meta device: it computes shapes alone, at once and for nothing.

    Raises:
        PipelineError: there is no such detector.
    """
    # Pretrained weights would only be fetched to be dropped; but batch norm follows them where it is automatic.
    frozen = bool(model.pretrained) and model.batch_norm == "auto"
    plain = replace(model, pretrained=False, batch_norm="frozen" if frozen else model.batch_norm)
    try:
        return build(plain, classes).to("meta")
    except ValueError as error:
        raise PipelineError(f"params.yaml: model.{error}") from None


def network(detector: Detector, size: tuple[int, int]) -> Network:
    """The parts of a detector and what each of them costs for an image of this height and width."""
    batch = _batch(detector.eval(), size, 1)
    seen: dict[str, list[Tensor]] = {}
    parts = list(_parts(detector))
    hooks = [part.register_forward_hook(_noting(seen, path)) for _, path, part in parts]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        outputs = detector(batch)
    for hook in hooks:
        hook.remove()
    flops = {path: sum(counts.values()) for path, counts in counter.get_flop_counts().items()}
    return Network(
        rows=tuple(
            Row(name, _shapes(seen[path]), _size(part), flops.get(f"Detector.{path}", 0))
            for name, path, part in parts
            if path in seen
        ),
        input=(batch.shape[-2], batch.shape[-1]),
        parameters=_size(detector),
        learned=sum(p.numel() for p in detector.parameters() if p.requires_grad),
        flops=counter.get_total_flops(),
        locations=sum(outputs.locations.counts),
    )


def _batch(detector: Detector, size: tuple[int, int], images: int) -> Tensor:
    return detector.prepare([torch.empty(3, *size, dtype=torch.uint8, device="meta")] * images)


def _parts(detector: Detector) -> Iterator[tuple[str, str, nn.Module]]:
    """Name, path and module of each row: the backbone's stages, the neck, the head's towers and outputs."""
    stages = list(detector.backbone.parts.children())
    for place, stage in enumerate(stages):
        number = 5 - (len(stages) - 1 - place)  # the last one is C5
        yield f"backbone {'stem' if place == 0 and number < 3 else f'C{number}'}", f"backbone.parts.{place}", stage
    yield "neck", "neck", detector.neck
    for name, part in detector.head.named_children():
        yield f"head {name.replace('_', ' ')}", f"head.{name}", part


def _noting(seen: dict[str, list[Tensor]], path: str) -> Any:
    def note(_module: nn.Module, _inputs: object, output: Tensor | Sequence[Tensor]) -> None:
        seen.setdefault(path, []).extend([output] if isinstance(output, Tensor) else output)

    return note


def _shapes(outputs: Sequence[Tensor]) -> str:
    """Channels × height × width of the first output, and heights × widths of further ones."""
    sides = ", ".join(f"{output.shape[-2]}×{output.shape[-1]}" for output in outputs)
    return f"{outputs[0].shape[1]} × {sides}"


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def memory(params: Params, detector: Detector, size: tuple[int, int], images: int) -> Memory:
    """What a training step holds, measured on tensors without content."""
    train = params.train
    optimizer = make_optimizer(
        detector, name=train.optimizer, lr=train.lr, weight_decay=train.weight_decay, momentum=train.momentum
    )
    activations = _kept(params, detector.train(), size, images)
    weights = list(detector.state_dict().values())
    gradients = [torch.empty_like(parameter) for parameter in detector.parameters() if parameter.requires_grad]
    for parameter, gradient in zip((p for p in detector.parameters() if p.requires_grad), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    state = [value for group in optimizer.state.values() for value in group.values() if isinstance(value, Tensor)]
    return Memory(
        weights=_bytes(weights),
        gradients=_bytes(gradients),
        optimizer=_bytes(state),
        average=_bytes(weights) if train.ema_decay else 0,
        activations=activations,
        batch=images,
    )


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _kept(params: Params, detector: Detector, size: tuple[int, int], images: int) -> int:
    """Bytes of what autograd saves for the backward pass, each storage once, weights not counted."""
    own = {tensor.untyped_storage()._cdata for tensor in [*detector.parameters(), *detector.buffers()]}
    saved: dict[int, torch.UntypedStorage] = {}  # held, so that no other storage takes an identity

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = detector(_batch(detector, size, images))
        truth = make_targets([torch.zeros(1, 4)] * images, [torch.zeros(1, dtype=torch.int64)] * images)
        # Held until all is counted, like everything that it needs.
        loss = Criterion(params.model, box_loss=params.loss)(outputs, truth.to(torch.device("meta"))).total
    total = sum(storage.nbytes() for identity, storage in saved.items() if identity not in own)
    del loss
    return total


def data(params: Params, home: Path) -> tuple[AnnotationSet | None, str | None]:
    """The training split, where it is there; and a line that says why there is no best possible recall, where so."""
    path = home / _TRAIN
    if not path.is_file():
        return None, (
            f"{path}: not there yet, so {COCO_CLASSES} classes are assumed and the best possible recall is left out: "
            "run `dvc repro convert` first"
        )
    if params.model.assigner in NEEDS_PREDICTIONS:
        return annotations.read(path), (
            f"no best possible recall: model.assigner {params.model.assigner} assigns by what a detector predicts"
        )
    return annotations.read(path), None


def recall(params: Params, split: AnnotationSet) -> Recall:
    """The best possible recall on a split, at the training size and without augmentation; no image is read.

    Raises:
        ValueError: the assigner needs predictions.
    """
    groups, names = split.by_image(), [level_name(stride) for stride in params.model.strides]
    objects, found = dict.fromkeys(["all", *_SIZES], 0), dict.fromkeys(["all", *_SIZES], 0)
    levels, positives = torch.zeros(len(names), dtype=torch.int64), 0
    scenes = [
        (params.train.input_size.resized(image.height, image.width), (image.height, image.width), own)
        for image in split.images
        if (own := trainable_annotations(groups[image.id], include_difficult=params.train.include_difficult))
    ]
    for scene in _alike(scenes):
        counts = _positives(params.model, scene)  # [L, all objects of the scene's images]
        levels += (counts > 0).sum(dim=1)
        positives += int(counts.sum())
        areas = torch.tensor([one.area for _, _, own in scene for one in own])
        taught = counts.sum(dim=0) > 0
        for name, (above, up_to) in {"all": (-math.inf, math.inf), **_SIZES}.items():
            here = (areas > above) & (areas <= up_to)
            objects[name] += int(here.sum())
            found[name] += int((here & taught).sum())
    return Recall(objects, found, dict(zip(names, levels.tolist(), strict=True)), positives, len(split.images))


_Scene = tuple[tuple[int, int], tuple[int, int], list[Annotation]]  # size as the network sees it, as stored, objects


def _alike(scenes: Sequence[_Scene]) -> Iterator[list[_Scene]]:
    """Images of like shape and number of objects together: little of a batch is padding."""
    group: list[_Scene] = []
    for scene in sorted(scenes, key=lambda scene: (scene[0], len(scene[2]))):
        together = [*group, scene]
        locations = max(height * width for (height, width), _, _ in together) / 48  # about: 1/64 + 1/256 + …
        if group and len(together) * locations * max(len(own) for _, _, own in together) > _TOGETHER:
            yield group
            group = []
        group = [*group, scene]
    if group:
        yield group


def _positives(config: ModelConfig, scenes: Sequence[_Scene]) -> Tensor:
    """Positive locations of each level for each object [L, N], the objects of all images in a row."""
    height, width = (max(scene[0][side] for scene in scenes) for side in (0, 1))
    where = places(config, height, width)
    boxes = [_boxes(scene) for scene in scenes]
    batch = make_targets(boxes, [torch.zeros(len(own), dtype=torch.int64) for own in boxes])
    found = ASSIGNERS[config.assigner](unpredicted(config, where, len(scenes)), batch, config)
    most = batch.boxes.shape[1]
    # Each object of the batch has a number; negatives get one beyond all.
    number = torch.where(found.positive, found.index + torch.arange(len(scenes))[:, None] * most, len(scenes) * most)
    counts = [
        torch.bincount(level.flatten(), minlength=len(scenes) * most + 1)[:-1]
        for level in (part.T for part in by_level(number.T, where))
    ]
    return torch.stack(counts)[:, batch.valid.flatten()]


def _boxes(scene: _Scene) -> Tensor:
    (new_height, new_width), (height, width), own = scene
    return box_tensor(own) * torch.tensor([new_width / width, new_height / height] * 2)


def text(params: Params, classes: int, made: Network, needed: Memory) -> str:
    """Parts, totals and memory as tables."""
    model, (height, width) = params.model, made.input
    levels = ", ".join(level_name(stride) for stride in model.strides)
    frozen = made.parameters - made.learned
    parts = [(row.name, row.output, f"{row.parameters:,}", f"{row.flops / 1e9:.2f}") for row in made.rows]
    parts.append(("total", f"{made.locations:,} locations", f"{made.parameters:,}", f"{made.flops / 1e9:.2f}"))
    costs = [
        ("weights and statistics", needed.weights),
        ("gradients", needed.gradients),
        (f"state of {params.train.optimizer}", needed.optimizer),
        ("moving average of the weights", needed.average),
        ("activations kept for the backward pass", needed.activations),
        ("total", needed.total),
    ]
    return "\n".join(
        [
            f"{model.backbone}, {model.neck} with {levels}, {count_noun(classes, 'class', 'classes')}; "
            f"one image of {height}×{width} pixels",
            "",
            _table([("part", "channels × sides", "parameters", "GFLOPs"), *parts]),
            "",
            f"FLOPs are 2 × multiply-adds, of convolutions and matrix products alone: {made.flops / 2e9:.2f} "
            f"G multiply-adds. {frozen:,} of the parameters are frozen.",
            "",
            _table(
                [(f"training step, batch of {needed.batch}, float32", "MiB")]
                + [(name, f"{size / 2**20:,.1f}") for name, size in costs]
            ),
            "What convolutions need while they run comes on top.",
        ]
    )


def recall_text(found: Recall) -> str:
    """Best possible recall as a table, and what each level learns."""
    rows = [
        (name, f"{number:,}", f"{found.learned[name]:,}", f"{found.learned[name] / number:.2%}" if number else "")
        for name, number in found.objects.items()
    ]
    levels = ", ".join(f"{name} {number:,}" for name, number in found.levels.items())
    return "\n".join(
        [
            _table([("best possible recall", "objects", "with a location", ""), *rows]),
            f"{_TRAIN}: {found.images:,} images at the training size, not augmented; "
            "small: up to 32² square pixels as stored, large: over 96².",
            f"Objects that each level learns (one may be learned by several): {levels}. "
            f"{found.positives / max(1, found.objects['all']):.1f} positive locations an object.",
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first aligned to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def record(classes: int, made: Network, needed: Memory, found: Recall | None) -> dict[str, Any]:
    """Everything for JSON: FLOPs are 2 × multiply-adds, memory is in bytes."""
    return {
        "classes": classes,
        "network": asdict(made),
        "memory": asdict(needed) | {"total": needed.total},
        "recall": asdict(found) if found else None,
    }
