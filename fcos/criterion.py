"""Outputs and targets in, named losses out."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fcos.assigners import ASSIGNERS
from fcos.config import ModelConfig
from fcos.losses import BOX_LOSSES, CLASSIFICATION_LOSSES, QUALITY_LOSSES, centerness
from fcos.ops.boxes import aligned_iou, boxes_from_ltrb
from fcos.structures import Assignment, Outputs, Targets


@dataclass(frozen=True)
class Losses:
    """Parts that are added up and learned from, as they enter the total, and what only tells."""

    classification: Tensor
    box: Tensor
    quality: Tensor
    quality_floor: Tensor  # the quality loss's lower limit: with cross-entropy, its target's own entropy
    positives: Tensor  # number of positive locations

    @property
    def total(self) -> Tensor:
        return self.classification + self.box + self.quality

    @staticmethod
    def names() -> list[str]:
        """What `named` has, in its order; positives are the last."""
        return ["total", *(field.name for field in fields(Losses))]

    def named(self) -> dict[str, Tensor]:
        """Every number by name, detached, on its device: nothing waits for it here."""
        values = {"total": self.total, **vars(self)}
        return {name: value.detach() for name, value in values.items()}


class Criterion:
    """FCOS's loss (ICCV paper, equation 2; the box loss weighted by centerness as in its code and TPAMI).

    Classification loss over all locations and quality loss over the positive ones, each divided by the number of
    positives; box loss weighted by `config.box_loss_weighting` and divided by the sum of these weights (`none`: by the
    number of positives). Then each part, and the quality's floor with it, is multiplied by its weight of
    `config.loss_weights`.

    Args:
        config: how it learns: assigner, classification and quality loss, weights.
        box_loss: a name of BOX_LOSSES.
        mean_over_processes: makes a normalizer the mean over all training processes; alone, it stays what it is.
        processes: how many these are. Their gradients' mean is then the gradient of one process with all the images.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        box_loss: str,
        mean_over_processes: Callable[[Tensor], Tensor] = lambda value: value,
        processes: int = 1,
    ) -> None:
        self.config, self.box_loss = config, BOX_LOSSES[box_loss]
        self.mean_over_processes, self.processes = mean_over_processes, processes

    def __call__(self, outputs: Outputs, batch: Targets) -> Losses:
        """Losses as scalars in float32; with no positive location, box and quality are 0."""
        with torch.no_grad():
            truth = ASSIGNERS[self.config.assigner](outputs, batch, self.config)
        predicted, objects = _pairs(outputs, truth)
        with torch.no_grad():
            # Rounding can lift an IoU above 1, of which there is no entropy.
            overlap = aligned_iou(predicted, objects)[0].clamp(max=1)
        positives = truth.positive.sum().float()
        count = self._normalizer(positives, least=1)
        quality, floor = self._quality(outputs, truth, overlap)
        weights = self.config.loss_weights
        return Losses(
            classification=self._classification(outputs, truth, overlap) / count * weights.classification,
            box=self._box(predicted, objects, self._box_weight(truth, overlap), count) * weights.box,
            quality=quality / count * weights.quality,
            quality_floor=floor / count * weights.quality,
            positives=positives,
        )

    def _normalizer(self, value: Tensor, least: float) -> Tensor:
        """The mean over all processes; `least` limits their sum, which is what one process with all images has."""
        return self.mean_over_processes(value).clamp(min=least / self.processes)

    def _classification(self, outputs: Outputs, truth: Assignment, overlap: Tensor) -> Tensor:
        """Positive locations learn 1 of their class or, where the loss takes soft targets, how good they are."""
        loss = CLASSIFICATION_LOSSES[self.config.classification_loss]
        goals = truth.positive.float()
        if loss.soft:
            goals = goals * (overlap if truth.alignment is None else truth.alignment)
        return loss.summed(
            outputs.logits, truth.labels, goals, alpha=self.config.focal_alpha, gamma=self.config.focal_gamma
        )

    def _box_weight(self, truth: Assignment, overlap: Tensor) -> Tensor | None:
        if self.config.box_loss_weighting == "none":
            return None
        return (centerness(truth.ltrb) if self.config.box_loss_weighting == "centerness" else overlap) * truth.positive

    def _box(self, predicted: Tensor, objects: Tensor, weight: Tensor | None, count: Tensor) -> Tensor:
        losses = self.box_loss(predicted, objects)
        if weight is None:
            return losses.sum() / count  # where not positive, both boxes are the same and lose nothing
        return (losses * weight).sum() / self._normalizer(weight.sum(), least=1e-6)

    def _quality(self, outputs: Outputs, truth: Assignment, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """The quality loss and its floor, both summed; 0 where the detector has no such branch."""
        if outputs.quality is None:
            return overlap.new_zeros(()), overlap.new_zeros(())
        loss = QUALITY_LOSSES[self.config.quality_loss]
        goals = overlap if self.config.quality == "iou" else centerness(truth.ltrb)
        losses = loss.loss(outputs.quality.float(), goals)
        return (losses * truth.positive).sum(), (loss.floor(goals) * truth.positive).sum()


def _pairs(outputs: Outputs, truth: Assignment) -> tuple[Tensor, Tensor]:
    """Each location's predicted box and its object's [B, P, 4], in strides around the location.

    Around it, not in the image: far from the corner, float32 would lose the small boxes' sides. Where the location
    isn't positive, both are the same, so that nothing infinite comes from what doesn't count.
    """
    objects = truth.ltrb / outputs.locations.strides[:, None]
    predicted = (outputs.ltrb.float() / outputs.locations.strides[:, None]).where(truth.positive[..., None], objects)
    origin = objects.new_zeros(2)
    return boxes_from_ltrb(origin, predicted), boxes_from_ltrb(origin, objects)
