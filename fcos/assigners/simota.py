"""SimOTA: each object is learned by the locations of the lowest cost, as many as its predictions overlap it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fcos.assigners.conflicts import assignment, resolve
from fcos.config import ModelConfig
from fcos.ops.boxes import aligned_iou, boxes_from_ltrb, contains
from fcos.structures import Assignment, Outputs, Targets

_CANDIDATES = 10  # predictions whose IoU are summed to the number of positive locations (OTA, 2103.14259, section 3.3)
_BOX_COST = 3.0  # λ, the factor of the box's cost
_EPSILON = 1e-8


def assign_simota(outputs: Outputs, batch: Targets, config: ModelConfig) -> Assignment:
    """Simplified optimal transport assignment (YOLOX, Ge et al., 2107.08430, section 2.1).

    The candidates of an object are the locations inside its box and within `config.center_sampling_radius` strides of
    its center (0: anywhere in the box). Their cost is the cross-entropy of the class probabilities plus three times
    −ln(IoU) of the box predicted there. The k candidates of the lowest cost are positive, where k is the sum of the ten
    highest IoU, rounded down and at least 1. A location that is positive for several objects learns the one of the
    lowest cost; of equal ones, the first.

    Args:
        outputs: predictions at P locations; no gradient flows into them.
        batch: B images with up to M objects.
        config: `center_sampling_radius`.
    """
    xy, boxes = outputs.locations.xy, batch.boxes[:, :, None]
    inside = contains(boxes, xy) & batch.valid[..., None]  # [B, M, P]
    if config.center_sampling_radius > 0:
        offset = ((boxes[..., :2] + boxes[..., 2:]) / 2 - xy).abs().amax(dim=-1)
        inside &= offset < config.center_sampling_radius * outputs.locations.strides
    predicted = boxes_from_ltrb(xy, outputs.ltrb.detach().float())
    iou = aligned_iou(boxes, predicted[:, None])[0].where(inside, 0)
    costs = _class_cost(outputs.logits.detach().float(), batch.labels) - _BOX_COST * (iou + _EPSILON).log()
    best = min(_CANDIDATES, len(xy))
    numbers = iou.topk(best, dim=-1).values.sum(dim=-1).long().clamp(min=1)
    lowest, cells = costs.where(inside, torch.inf).topk(best, dim=-1, largest=False)
    chosen = torch.arange(best, device=xy.device) < numbers[..., None]
    return assignment(outputs.locations, batch, *resolve(cells, lowest.where(chosen, torch.inf), len(xy)))


def _class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits [B, P, K] with one class of labels [B, M] at a time, summed over K: [B, M, P]."""
    assigned = logits.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, logits.shape[1]))
    return F.softplus(logits).sum(dim=-1)[:, None] - assigned  # −ln p = softplus(x) − x, −ln(1 − p) = softplus(x)
