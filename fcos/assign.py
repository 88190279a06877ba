"""Which location learns which object."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fcos.boxes import area, ltrb_from_boxes
from fcos.points import Points

# Distances of one chunk, in floats: 64 MiB. Hundreds of objects in each of many images must not exhaust memory.
_CHUNK = 2**24


@dataclass(frozen=True)
class Targets:
    """A batch's objects, padded to the image with most of them."""

    boxes: Tensor  # [B, M, 4] pixels of the network's input
    labels: Tensor  # [B, M] int64, 0…K−1
    valid: Tensor  # [B, M] bool; False is padding

    def to(self, device: torch.device) -> "Targets":
        return Targets(*(t.to(device, non_blocking=True) for t in (self.boxes, self.labels, self.valid)))


@dataclass(frozen=True)
class Assignment:
    """What each location of each image has to learn."""

    positive: Tensor  # [B, P] bool: the location learns an object; the others learn background
    labels: Tensor  # [B, P] int64; meaningful where positive
    ltrb: Tensor  # [B, P, 4] pixels; ones where not positive, so that arithmetic on them stays finite


def targets(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
    """Pads one [m, 4] and one [m] tensor an image into a batch; images without objects are welcome."""
    most = max(1, *(len(one) for one in boxes)) if boxes else 1
    padded = torch.zeros(len(boxes), most, 4)
    padded_labels = torch.zeros(len(boxes), most, dtype=torch.int64)
    valid = torch.zeros(len(boxes), most, dtype=torch.bool)
    for index, (one, label) in enumerate(zip(boxes, labels, strict=True)):
        padded[index, : len(one)], padded_labels[index, : len(one)], valid[index, : len(one)] = one, label, True
    return Targets(padded, padded_labels, valid)


def assign_fcos(points: Points, batch: Targets, *, radius: float) -> Assignment:
    """FCOS assignment with centre sampling (ICCV paper, section 3.1; TPAMI, section 3.2).

    A location is positive for an object when it lies inside its box, within `radius` strides of the box's
    centre (0: anywhere in the box), and max(l, t, r, b) is in its level's range. Of several, the smallest box wins;
    of equally small ones, the first.

    Args:
        points: P locations.
        batch: B images of up to M objects.
        radius: in strides.
    """
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
    return Assignment(positive=is_positive, labels=batch.labels.gather(1, index), ltrb=ltrb)


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
