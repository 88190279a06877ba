"""Outputs and targets in, named losses out."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos.assigners import ASSIGNERS
from fcos.boxes import boxes_from_ltrb
from fcos.config import ModelConfig
from fcos.losses import BOX_LOSSES, centerness, entropy, sigmoid_focal_loss
from fcos.outputs import Outputs
from fcos.targets import Assignment, Targets


@dataclass(frozen=True)
class Losses:
    """Parts that are added up and learnt from, and what only tells."""

    classification: Tensor
    box: Tensor
    quality: Tensor
    quality_floor: Tensor  # the quality loss's lower limit: its target's own entropy
    positives: Tensor  # number of positive locations

    @property
    def total(self) -> Tensor:
        return self.classification + self.box + self.quality

    def named(self) -> dict[str, Tensor]:
        """Every number by name, detached, on its device: nothing waits for it here."""
        values = {"total": self.total, **vars(self)}
        return {name: value.detach() for name, value in values.items()}


class Criterion:
    """FCOS's loss (ICCV paper, equation 2; the box loss weighted by centerness as in its code and TPAMI).

    Focal loss over all locations and centerness's cross-entropy, each divided by the number of positives; box loss
    weighted by the centerness target and divided by the sum of these weights.

    Args:
        config: how it learns: assigner, classification and quality loss, weights.
        box_loss: a name of BOX_LOSSES.
        mean_over_processes: makes a normaliser the mean over all training processes; alone, it stays what it is.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        box_loss: str,
        mean_over_processes: Callable[[Tensor], Tensor] = lambda value: value,
    ) -> None:
        self.config, self.box_loss, self.mean_over_processes = config, BOX_LOSSES[box_loss], mean_over_processes

    def __call__(self, outputs: Outputs, batch: Targets) -> Losses:
        """Losses as scalars in float32; with no positive location, box and centerness are 0."""
        truth = ASSIGNERS[self.config.assigner](outputs, batch, self.config)
        positives = truth.positive.sum().float()
        count = self.mean_over_processes(positives).clamp(min=1)
        goal = centerness(truth.ltrb)
        weight = goal * truth.positive
        weight_sum = self.mean_over_processes(weight.sum()).clamp(min=1e-6)
        uncertain = F.binary_cross_entropy_with_logits(outputs.quality.float(), goal, reduction="none")
        return Losses(
            classification=_classification(outputs.logits.float(), truth).sum() / count,
            box=(self._box(outputs, truth) * weight).sum() / weight_sum,
            quality=(uncertain * truth.positive).sum() / count,
            quality_floor=(entropy(goal) * truth.positive).sum() / count,
            positives=positives,
        )

    def _box(self, outputs: Outputs, truth: Assignment) -> Tensor:
        # Around the origin, not the location: far from the corner, float32 would lose the small boxes' sides.
        origin = outputs.ltrb.new_zeros(2)
        return self.box_loss(boxes_from_ltrb(origin, outputs.ltrb.float()), boxes_from_ltrb(origin, truth.ltrb))


def _classification(logits: Tensor, truth: Assignment) -> Tensor:
    classes = torch.arange(logits.shape[-1], device=logits.device)
    one_hot = (truth.labels[..., None] == classes) & truth.positive[..., None]
    return sigmoid_focal_loss(logits, one_hot.to(logits.dtype))
