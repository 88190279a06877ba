"""The assignment of locations to the objects of one image, as in training, and why an object gets no location."""

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

# Assigners that need a detector's predictions; the others need only the locations.
NEEDS_PREDICTIONS = frozenset({"task_aligned"})


@dataclass(frozen=True)
class ObjectAssignment:
    """The positive locations of one object."""

    annotation: Annotation
    box: tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the network input
    positives: tuple[int, ...]  # number of positive locations on each level
    centerness: float  # highest centerness among them; 0 if there are none
    unassigned_reason: str | None  # why there are none


@dataclass(frozen=True)
class ImageAssignment:
    """The assignment of all locations of one image."""

    objects: tuple[ObjectAssignment, ...]
    locations: Locations
    positive: Tensor  # [P] bool
    index: Tensor  # [P] int64, the index of the assigned object; meaningful where positive
    centerness: Tensor  # [P] in 0…1; meaningful where positive
    by_size: bool  # whether each level is responsible for a range of object sizes


def level_name(stride: int) -> str:
    """The name of the pyramid level with this stride: 8 is P3."""
    return f"P{round(math.log2(stride))}"


def split_levels(values: Tensor, locations: Locations) -> tuple[Tensor, ...]:
    """Splits values [P, …] of all locations into one tensor per level."""
    return torch.split(values, list(locations.counts))


def input_locations(config: ModelConfig, height: int, width: int) -> Locations:
    """The locations of a detector for an input of this size before padding."""
    padded = padded_size(height, width)
    # A convolution of stride 2 halves the sides and rounds up; so do the levels.
    shapes = [(-(-padded[0] // stride), -(-padded[1] // stride)) for stride in config.strides]
    return make_locations(shapes, config.strides, mode=config.locations, ends=config.regression_ranges)


def zero_outputs(config: ModelConfig, locations: Locations, images: int) -> Outputs:
    """Outputs that are zero everywhere, for assigners that use only the locations.

    Raises:
        ValueError: the assigner needs predictions.
    """
    if config.assigner in NEEDS_PREDICTIONS:
        raise ValueError(f"assigner: {config.assigner} needs the predictions of a trained detector")
    zero, count = torch.zeros(()), len(locations.xy)
    return Outputs(
        logits=zero.expand(images, count, 1),
        ltrb=zero.expand(images, count, 4),
        quality=None if config.quality == "none" else zero.expand(images, count),
        locations=locations,
    )


def assign_image(
    config: ModelConfig, outputs: Outputs, annotations: Sequence[Annotation], boxes: Tensor, labels: Tensor
) -> ImageAssignment:
    """Assigns the locations of one image to its objects.

    Args:
        outputs: for this image alone, by a detector or by `zero_outputs`.
        annotations: M annotations, in the order of `boxes`.
        boxes: [M, 4] in pixels of the network input.
        labels: [M] int64.
    """
    device = outputs.locations.xy.device
    batch: Targets = make_targets([boxes], [labels]).to(device)
    assignment = ASSIGNERS[config.assigner](outputs, batch, config)
    positive, index = assignment.positive[0].cpu(), assignment.index[0].cpu()
    central = centerness(assignment.ltrb)[0].cpu()
    locations = _on_cpu(outputs.locations)
    objects = []
    for number, (annotation, box) in enumerate(zip(annotations, boxes, strict=True)):
        assigned = positive & (index == number)
        objects.append(
            ObjectAssignment(
                annotation=annotation,
                box=(float(box[0]), float(box[1]), float(box[2]), float(box[3])),
                positives=tuple(int(level.sum()) for level in split_levels(assigned, locations)),
                centerness=float(central[assigned].max()) if assigned.any() else 0.0,
                unassigned_reason=None if assigned.any() else unassigned_reason(config, locations, box),
            )
        )
    return ImageAssignment(tuple(objects), locations, positive, index, central, by_size=config.assigner == "fcos")


def _on_cpu(locations: Locations) -> Locations:
    return Locations(locations.xy.cpu(), locations.strides.cpu(), locations.ranges.cpu(), locations.grids)


def unassigned_reason(config: ModelConfig, locations: Locations, box: Tensor) -> str:
    """Why a box [4] has no positive location, in a few words."""
    if config.assigner != "fcos":
        return f"the assigner {config.assigner} assigned no location"
    ltrb = ltrb_from_boxes(locations.xy, box)
    inside, sizes = ltrb.amin(dim=-1) > 0, ltrb.amax(dim=-1)
    if not inside.any():
        return f"too small: no location inside its box of {_size_text(box)}"
    if config.center_sampling_radius > 0:
        offset = (locations.xy - (box[:2] + box[2:]) / 2).abs().amax(dim=-1)
        inside &= offset < config.center_sampling_radius * locations.strides
        if not inside.any():
            return f"no location within the radius of {config.center_sampling_radius:g} strides around its center"
    too_small, too_large = sizes <= locations.ranges[:, 0], sizes > locations.ranges[:, 1]
    if (inside & ~too_small & ~too_large).any():
        return "hidden: all its locations are assigned to smaller objects in front of it"
    mismatch = _size_mismatch(inside & too_small, inside & too_large, locations)
    return f"{mismatch}, and no other level has a location inside"


def _size_mismatch(too_small: Tensor, too_large: Tensor, locations: Locations) -> str:
    texts = []
    for word, mismatched in (("small", too_small), ("large", too_large)):
        names = [
            level_name(grid.stride)
            for grid, level in zip(locations.grids, split_levels(mismatched, locations), strict=True)
            if level.any()
        ]
        if names:
            texts.append(f"too {word} for {', '.join(names)}")
    return " and ".join(texts)


def _size_text(box: Tensor) -> str:
    width, height = (box[2:] - box[:2]).tolist()
    return f"{width:.0f}×{height:.0f} px"
