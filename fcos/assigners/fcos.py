"""FCOS: a location learns the smallest of the objects around it whose size its level answers for."""

import torch
from torch import Tensor

from fcos.boxes import area, ltrb_from_boxes
from fcos.config import ModelConfig
from fcos.outputs import Outputs
from fcos.points import Points
from fcos.targets import Assignment, Targets

# Distances of one chunk, in floats: 64 MiB. Hundreds of objects in each of many images must not exhaust memory.
_CHUNK = 2**24


def assign_fcos(outputs: Outputs, batch: Targets, config: ModelConfig) -> Assignment:
    """FCOS assignment with centre sampling (ICCV paper, section 3.1; TPAMI, section 3.2).

    A location is positive for an object when it lies inside its box, within `config.centre_radius` strides of the box's
    centre (0: anywhere in the box), and max(l, t, r, b) is in its level's range. Of several, the smallest box wins;
    of equally small ones, the first.

    Args:
        outputs: their P locations alone are used.
        batch: B images of up to M objects.
    """
    points, radius = outputs.points, config.centre_radius
    images, objects = batch.boxes.shape[:2]
    step = max(1, _CHUNK // (len(points.locations) * objects * 4))
    matched, positive = zip(
        *(
            _match(points, batch.boxes[start : start + step], batch.valid[start : start + step], radius)
            for start in range(0, images, step)
        ),
        strict=True,
    )
    index, is_positive = torch.cat(matched), torch.cat(positive)
    boxes = batch.boxes.gather(1, index[..., None].expand(-1, -1, 4))
    ltrb = torch.where(is_positive[..., None], ltrb_from_boxes(points.locations, boxes), boxes.new_ones(()))
    return Assignment(positive=is_positive, labels=batch.labels.gather(1, index), ltrb=ltrb, index=index)


def _match(points: Points, boxes: Tensor, valid: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Index of each location's object [b, P], and whether it has one [b, P]."""
    ltrb = ltrb_from_boxes(points.locations[None, :, None], boxes[:, None])  # [b, P, M, 4]
    candidate = (ltrb.amin(dim=-1) > 0) & valid[:, None]
    if radius > 0:
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        offset = (points.locations[None, :, None] - centres[:, None]).abs().amax(dim=-1)
        candidate &= offset < radius * points.strides[None, :, None]
    size = ltrb.amax(dim=-1)
    candidate &= (size > points.ranges[None, :, None, 0]) & (size <= points.ranges[None, :, None, 1])
    # Infinity, not 1e8 − area: in float32 that loses the difference of small areas.
    smallest, index = torch.where(candidate, area(boxes)[:, None], torch.inf).min(dim=-1)
    return index, smallest.isfinite()
