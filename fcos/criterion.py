"""The loss: from outputs and targets to named losses."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from fcos.assigners import ASSIGNERS
from fcos.config import ModelConfig
from fcos.losses import BOX_LOSSES, CLASSIFICATION_LOSSES, QUALITY_LOSSES, centerness, distribution_focal_loss
from fcos.ops.boxes import aligned_iou, boxes_from_ltrb
from fcos.structures import Assignment, Outputs, Targets


@dataclass(frozen=True)
class Losses:
    """The weighted parts of the loss, and two numbers for the record: `quality_floor` and `positives`."""

    classification: Tensor
    box: Tensor
    quality: Tensor
    quality_floor: Tensor  # lower limit of the quality loss: with cross-entropy, the entropy of its targets
    positives: Tensor  # number of positive locations

    @property
    def total(self) -> Tensor:
        return self.classification + self.box + self.quality

    @staticmethod
    def names() -> list[str]:
        """The names in `named`, in order; positives are the last."""
        return ["total", *(field.name for field in fields(Losses))]

    def named(self) -> dict[str, Tensor]:
        """All numbers by name, detached, on their device: this does not wait for a GPU."""
        values = {"total": self.total, **vars(self)}
        return {name: value.detach() for name, value in values.items()}


class Criterion:
    """FCOS's loss (ICCV paper, equation 2; the box loss weighted by centerness as in its code and TPAMI).

    Classification loss over all locations and quality loss over the positive ones, each divided by the number of
    positives; box loss weighted by `config.box_loss_weighting` and divided by the sum of these weights (`none`: by the
    number of positives). Each part is then multiplied by its factor in `config.loss_weights`.

    Args:
        config: assigner, classification and quality loss, weights.
        box_loss: a name of BOX_LOSSES.
        mean_over_processes: averages a normalizer over all training processes.
        processes: number of training processes. The mean of their gradients is the gradient of one process that has
            all images.
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
        """Returns the losses as float32 scalars; without positive locations, box and quality are 0."""
        with torch.no_grad():
            assignment = ASSIGNERS[self.config.assigner](outputs, batch, self.config)
        predicted, objects = _box_pairs(outputs, assignment)
        with torch.no_grad():
            # Rounding can give an IoU above 1, which has no entropy.
            iou = aligned_iou(predicted, objects)[0].clamp(max=1)
        positives = assignment.positive.sum().float()
        count = self._normalizer(positives, minimum=1)
        quality, floor = self._quality(outputs, assignment, iou)
        weights = self.config.loss_weights
        return Losses(
            classification=self._classification(outputs, assignment, iou) / count * weights.classification,
            box=self._box(outputs, assignment, (predicted, objects), iou, count),
            quality=quality / count * weights.quality,
            quality_floor=floor / count * weights.quality,
            positives=positives,
        )

    def _normalizer(self, value: Tensor, minimum: float) -> Tensor:
        """The mean over all processes, whose sum is at least `minimum`, as for one process with all images."""
        return self.mean_over_processes(value).clamp(min=minimum / self.processes)

    def _classification(self, outputs: Outputs, assignment: Assignment, iou: Tensor) -> Tensor:
        """Targets of positive locations: 1, or with soft targets their alignment or IoU."""
        loss = CLASSIFICATION_LOSSES[self.config.classification_loss]
        targets = assignment.positive.float()
        if loss.soft:
            targets = targets * (iou if assignment.alignment is None else assignment.alignment)
        return loss.summed(
            outputs.logits, assignment.labels, targets, alpha=self.config.focal_alpha, gamma=self.config.focal_gamma
        )

    def _box_weight(self, assignment: Assignment, iou: Tensor) -> Tensor | None:
        if self.config.box_loss_weighting == "none":
            return None
        return (
            centerness(assignment.ltrb) if self.config.box_loss_weighting == "centerness" else iou
        ) * assignment.positive

    def _box(
        self, outputs: Outputs, assignment: Assignment, pair: tuple[Tensor, Tensor], iou: Tensor, count: Tensor
    ) -> Tensor:
        """The box loss and, if boxes are distributions, the distribution focal loss, both weighted."""
        weight, factors = self._box_weight(assignment, iou), self.config.loss_weights
        loss = self._mean(self.box_loss(*pair), weight, count) * factors.box
        if outputs.distributions is not None:
            distances = assignment.ltrb / outputs.locations.strides[:, None]
            losses = distribution_focal_loss(outputs.distributions.float(), distances) * assignment.positive
            loss = loss + self._mean(losses, weight, count) * factors.distribution
        return loss

    def _mean(self, losses: Tensor, weight: Tensor | None, count: Tensor) -> Tensor:
        """The weighted mean of losses [B, P] that are 0 where not positive."""
        if weight is None:
            return losses.sum() / count
        return (losses * weight).sum() / self._normalizer(weight.sum(), minimum=1e-6)

    def _quality(self, outputs: Outputs, assignment: Assignment, iou: Tensor) -> tuple[Tensor, Tensor]:
        """The quality loss and its floor, both summed; 0 if the detector has no quality output."""
        if outputs.quality is None:
            return iou.new_zeros(()), iou.new_zeros(())
        loss = QUALITY_LOSSES[self.config.quality_loss]
        targets = iou if self.config.quality == "iou" else centerness(assignment.ltrb)
        losses = loss.loss(outputs.quality.float(), targets)
        return (losses * assignment.positive).sum(), (loss.floor(targets) * assignment.positive).sum()


def _box_pairs(outputs: Outputs, assignment: Assignment) -> tuple[Tensor, Tensor]:
    """The predicted box and the object's box of each location [B, P, 4], relative to the location, in strides.

    Relative coordinates keep float32's precision for small boxes far from the image's corner. If the location is not
    positive, both boxes are equal, so that no infinite value arises.
    """
    objects = assignment.ltrb / outputs.locations.strides[:, None]
    predicted = (outputs.ltrb.float() / outputs.locations.strides[:, None]).where(
        assignment.positive[..., None], objects
    )
    origin = objects.new_zeros(2)
    return boxes_from_ltrb(origin, predicted), boxes_from_ltrb(origin, objects)
