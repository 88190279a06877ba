"""Data between the parts: a detector's outputs, a batch's targets, and the assignment between them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fcos.locations import Locations


@dataclass(frozen=True)
class Outputs:
    """Predictions of a detector for each location, all levels in one list."""

    logits: Tensor  # [B, P, K] class logits
    ltrb: Tensor  # [B, P, 4] distances to the box's sides in pixels of the input
    quality: Tensor | None  # [B, P] logits of centerness or IoU; None if the head has no quality output
    locations: Locations
    distributions: Tensor | None = None  # [B, P, 4, bins] logits of the distances' distributions, if the head has them

    def float(self) -> "Outputs":
        """Converts to float32, which losses need: sums of thousands of small numbers lose precision in 16 bits."""
        quality = None if self.quality is None else self.quality.float()
        return replace(self, logits=self.logits.float(), ltrb=self.ltrb.float(), quality=quality)


@dataclass(frozen=True)
class Targets:
    """The objects of a batch, padded to the largest number of objects in an image."""

    boxes: Tensor  # [B, M, 4] in pixels of the input
    labels: Tensor  # [B, M] int64, 0…K−1
    valid: Tensor  # [B, M] bool; False is padding

    def to(self, device: torch.device) -> "Targets":
        return Targets(*(tensor.to(device, non_blocking=True) for tensor in (self.boxes, self.labels, self.valid)))


@dataclass(frozen=True)
class Assignment:
    """The training target of each location of each image."""

    positive: Tensor  # [B, P] bool: the location learns an object; all others learn background
    labels: Tensor  # [B, P] int64; meaningful where positive
    ltrb: Tensor  # [B, P, 4] in pixels; 1 where not positive, so that arithmetic stays finite
    index: Tensor  # [B, P] int64, index of the object in Targets; meaningful where positive
    # [B, P] in 0…1, the soft class target if the assigner computes one; None: the IoU of the predicted box is used.
    alignment: Tensor | None = None


def make_targets(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Targets:
    """Pads the boxes [m, 4] and labels [m] of each image to a batch; an image may have no objects."""
    most = max(map(len, boxes), default=0) or 1
    padded = torch.zeros(len(boxes), most, 4)
    padded_labels = torch.zeros(len(boxes), most, dtype=torch.int64)
    valid = torch.zeros(len(boxes), most, dtype=torch.bool)
    for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        padded[index, : len(box)], padded_labels[index, : len(box)], valid[index, : len(box)] = box, label, True
    return Targets(padded, padded_labels, valid)
