"""Which locations learn which object of an image: the assignment that training makes, without a network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fcos.assigners import ASSIGNERS
from fcos.config import ModelConfig
from fcos.detector import padded_size
from fcos.locations import Locations, make_locations
from fcos.losses import centerness
from fcos.ops.boxes import ltrb_from_boxes
from fcos.structures import Outputs, Targets, make_targets
from pipeline.data.annotations import Annotation

# These ask what a detector predicts; to the others a location is enough.
NEEDS_PREDICTIONS = frozenset({"task_aligned"})


@dataclass(frozen=True)
class Object:
    """One object of an image, and what came of it."""

    annotation: Annotation
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the network's input
    positives: tuple[int, ...]  # locations of each level that learn it
    centerness: float  # of the most central of them; 0 where there is none
    reason: str | None  # why it has none


@dataclass(frozen=True)
class Explanation:
    """What every location of an image has to learn."""

    objects: tuple[Object, ...]
    places: Locations
    positive: Tensor  # [P] bool
    index: Tensor  # [P] int64, the place in `objects`; meaningful where positive
    centerness: Tensor  # [P] in 0…1; meaningful where positive
    by_range: bool  # whether a level learns objects by their size


def level_name(stride: int) -> str:
    """The pyramid level of a stride: 8 is P3."""
    return f"P{round(math.log2(stride))}"


def by_level(values: Tensor, where: Locations) -> tuple[Tensor, ...]:
    """Values [P, …] of all locations, level by level."""
    return torch.split(values, list(where.counts))


def places(config: ModelConfig, height: int, width: int) -> Locations:
    """The locations of a detector whose input has this size before it is padded."""
    padded = padded_size(height, width)
    # A convolution of stride 2 halves and rounds up, so the levels' sides do too.
    shapes = [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in config.strides]
    return make_locations(shapes, config.strides, mode=config.locations, ends=config.regression_ranges)


def unpredicted(config: ModelConfig, where: Locations, images: int) -> Outputs:
    """Outputs that say nothing, for assigners that look at the locations alone.

    Raises:
        ValueError: the assigner needs predictions.
    """
    if config.assigner in NEEDS_PREDICTIONS:
        raise ValueError(f"assigner: {config.assigner} assigns by what a detector predicts, so it needs a trained one")
    nothing, count = torch.zeros(()), len(where.xy)
    return Outputs(
        logits=nothing.expand(images, count, 1),
        ltrb=nothing.expand(images, count, 4),
        quality=None if config.quality == "none" else nothing.expand(images, count),
        locations=where,
    )


def explain(
    config: ModelConfig, outputs: Outputs, annotations: Sequence[Annotation], boxes: Tensor, labels: Tensor
) -> Explanation:
    """What each location of one image learns.

    Args:
        outputs: of this image alone, by a detector or by `unpredicted`.
        annotations: the objects, in the order of
        boxes: [M, 4] pixels of the network's input, and
        labels: [M] int64.
    """
    where = outputs.locations
    batch: Targets = make_targets([boxes], [labels]).to(where.xy.device)
    found = ASSIGNERS[config.assigner](outputs, batch, config)
    positive, index = found.positive[0].cpu(), found.index[0].cpu()
    central = centerness(found.ltrb)[0].cpu()
    here = Locations(where.xy.cpu(), where.strides.cpu(), where.ranges.cpu(), where.grids)
    objects = []
    for number, (annotation, box) in enumerate(zip(annotations, boxes, strict=True)):
        own = positive & (index == number)
        objects.append(
            Object(
                annotation=annotation,
                box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                positives=tuple(int(level.sum()) for level in by_level(own, here)),
                centerness=float(central[own].max()) if own.any() else 0.0,
                reason=None if own.any() else reason(config, here, box),
            )
        )
    return Explanation(tuple(objects), here, positive, index, central, by_range=config.assigner == "fcos")


def reason(config: ModelConfig, where: Locations, box: Tensor) -> str:
    """Why a box [4] has no positive location, in a few words that follow its name."""
    if config.assigner != "fcos":
        return f"the assigner {config.assigner} gave it no location"
    ltrb = ltrb_from_boxes(where.xy, box)
    inside, sizes = ltrb.amin(dim=-1) > 0, ltrb.amax(dim=-1)
    if not inside.any():
        return f"too small: no location inside its box of {_sides(box)}"
    if config.center_sampling_radius > 0:
        offset = (where.xy - (box[:2] + box[2:]) / 2).abs().amax(dim=-1)
        inside &= offset < config.center_sampling_radius * where.strides
        if not inside.any():
            return f"no location within the radius of {config.center_sampling_radius:g} strides around its center"
    too_small, too_large = sizes <= where.ranges[:, 0], sizes > where.ranges[:, 1]
    if (inside & ~too_small & ~too_large).any():
        return "hidden: all its locations learn smaller objects in front of it"
    return f"{_misfit(inside & too_small, inside & too_large, where)}, and no other level has a location inside"


def _misfit(too_small: Tensor, too_large: Tensor, where: Locations) -> str:
    texts = []
    for word, wrong in (("small", too_small), ("large", too_large)):
        names = [
            level_name(grid.stride)
            for grid, level in zip(where.grids, by_level(wrong, where), strict=True)
            if level.any()
        ]
        if names:
            texts.append(f"too {word} for {', '.join(names)}")
    return " and ".join(texts)


def _sides(box: Tensor) -> str:
    width, height = (box[2:] - box[:2]).tolist()
    return f"{width:.0f}×{height:.0f} px"
