"""What passes between the parts: a detector's outputs, a batch's targets, and the assignment of one to the other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fcos.locations import Locations


@dataclass(frozen=True)
class Outputs:
    """What the network says of every location, all levels in one list."""

    logits: Tensor  # [B, P, K] class logits
    ltrb: Tensor  # [B, P, 4] distances to the box's sides, pixels of the network's input
    quality: Tensor | None  # [B, P] logits of the centerness or the IoU; None where the head has no such branch
    locations: Locations

    def float(self) -> "Outputs":
        """In float32, for losses: 16 bits can't add up thousands of small numbers."""
        quality = None if self.quality is None else self.quality.float()
        return replace(self, logits=self.logits.float(), ltrb=self.ltrb.float(), quality=quality)


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
    index: Tensor  # [B, P] int64, the object's place in Targets; meaningful where positive
    # [B, P] how much of a positive the location is, in 0…1, where the assigner says so: soft class targets are made of
    # it; None: they are made of the IoU of the box predicted there.
    alignment: Tensor | None = None


def make_targets(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
    """Pads one [m, 4] and one [m] tensor an image into a batch; images without objects are welcome."""
    most = max(1, *(len(one) for one in boxes)) if boxes else 1
    padded = torch.zeros(len(boxes), most, 4)
    padded_labels = torch.zeros(len(boxes), most, dtype=torch.int64)
    valid = torch.zeros(len(boxes), most, dtype=torch.bool)
    for index, (one, label) in enumerate(zip(boxes, labels, strict=True)):
        padded[index, : len(one)], padded_labels[index, : len(one)], valid[index, : len(one)] = one, label, True
    return Targets(padded, padded_labels, valid)
