"""Task-aligned assignment: the locations that predict an object's class and box best learn it."""

import torch
from torch import Tensor

from fcos.assigners.conflicts import assignment, per_candidate, resolve
from fcos.config import ModelConfig
from fcos.ops.boxes import aligned_iou, boxes_from_ltrb, contains
from fcos.structures import Assignment, Outputs, Targets

# Pairs of object and location in one chunk, of about 50 bytes each.
_CHUNK = 2**22


def assign_task_aligned(outputs: Outputs, batch: Targets, config: ModelConfig) -> Assignment:
    """Task alignment learning (Feng et al., TOOD, 2108.07755, section 3.2).

    With s the probability of the object's class and u the IoU of the box predicted there, a location's alignment is
    t = s^`config.task_aligned_alpha` · u^`config.task_aligned_beta` (equation 6). The `config.task_aligned_topk` best
    aligned locations inside an object's box are positive. A location that is positive for several objects learns the
    one with the highest IoU; of equal ones, the first. `Assignment.alignment` is t, scaled for each object so that its
    maximum is the object's maximum u.

    Args:
        outputs: predictions at P locations; no gradient flows into them.
        batch: B images with up to M objects.
        config: `task_aligned_topk`, `task_aligned_alpha`, `task_aligned_beta`.
    """
    count = len(outputs.locations.xy)
    predicted = boxes_from_ltrb(outputs.locations.xy, outputs.ltrb.detach().float())
    step = max(1, _CHUNK // (count * len(predicted)))
    parts = [
        _best(outputs, predicted, part, config)
        for part in _split(batch, step)  # chunks of objects, to limit memory
    ]
    cells, aligned, iou = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    index, positive = resolve(cells, (-iou).where(aligned.isfinite(), torch.inf), count)
    objects = torch.arange(cells.shape[1], device=cells.device)[:, None]
    is_assigned = (per_candidate(index, cells) == objects) & aligned.isfinite()
    scaled = _scale(aligned.where(is_assigned, 0), iou.where(is_assigned, 0))
    alignment = scaled.new_zeros(positive.shape).scatter_reduce_(1, cells.flatten(1), scaled.flatten(1), "amax")
    return assignment(outputs.locations, batch, index, positive, alignment)


def _split(batch: Targets, objects: int) -> list[Targets]:
    parts = (torch.split(tensor, objects, dim=1) for tensor in (batch.boxes, batch.labels, batch.valid))
    return [Targets(*part) for part in zip(*parts, strict=True)]


def _best(outputs: Outputs, predicted: Tensor, batch: Targets, config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Indices of each object's best locations, their alignment (−∞: outside the box) and IoU: [B, M, candidates]."""
    boxes, xy = batch.boxes[:, :, None], outputs.locations.xy
    iou, _ = aligned_iou(boxes, predicted[:, None])  # [B, M, P]
    labels = batch.labels[..., None].expand(-1, -1, len(xy))
    probability = outputs.logits.detach().transpose(1, 2).gather(1, labels).float().sigmoid()
    aligned = probability**config.task_aligned_alpha * iou**config.task_aligned_beta
    inside = contains(boxes, xy) & batch.valid[..., None]
    best, cells = aligned.where(inside, -torch.inf).topk(min(config.task_aligned_topk, len(xy)), dim=-1)
    return cells, best, iou.gather(-1, cells)


def _scale(aligned: Tensor, iou: Tensor) -> Tensor:
    """Scales the alignment of each object's locations [B, M, C] so that its maximum is the object's maximum IoU."""
    largest = aligned.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(aligned.dtype).tiny)
    return aligned / largest * iou.amax(dim=-1, keepdim=True).clamp(max=1)
