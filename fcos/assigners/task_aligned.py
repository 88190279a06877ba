"""Task-aligned assignment: an object is learned where class and box are already predicted best."""

import torch
from torch import Tensor

from fcos.assigners.conflicts import assignment, per_candidate, resolve
from fcos.config import ModelConfig
from fcos.ops.boxes import aligned_iou, boxes_from_ltrb, contains
from fcos.structures import Assignment, Outputs, Targets

# Pairs of object and location in one chunk; each takes about 50 bytes.
_CHUNK = 2**22


def assign_task_aligned(outputs: Outputs, batch: Targets, config: ModelConfig) -> Assignment:
    """Task alignment learning (Feng et al., TOOD, 2108.07755, section 3.2).

    With s the probability of the object's class and u the IoU of the box predicted there, a location's alignment is
    t = s^`config.task_aligned_alpha` · u^`config.task_aligned_beta` (equation 6). The `config.task_aligned_topk` best
    aligned locations inside an object's box are positive. A location of several objects goes to the highest IoU; of
    equal ones, to the first object. `Assignment.alignment` is t, scaled for each object so that its largest is the
    object's largest u.

    Args:
        outputs: what is predicted at P locations; nothing flows back into it.
        batch: B images of up to M objects.
    """
    count = len(outputs.locations.xy)
    predicted = boxes_from_ltrb(outputs.locations.xy, outputs.ltrb.detach().float())
    step = max(1, _CHUNK // (count * len(predicted)))
    parts = [
        _best(outputs, predicted, part, config)
        for part in _split(batch, step)  # of the objects, so that any number of them fits
    ]
    cells, aligned, overlap = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
    index, positive = resolve(cells, (-overlap).where(aligned.isfinite(), torch.inf), count)
    objects = torch.arange(cells.shape[1], device=cells.device)[:, None]
    won = (per_candidate(index, cells) == objects) & aligned.isfinite()
    scaled = _scale(aligned.where(won, 0), overlap.where(won, 0))
    alignment = scaled.new_zeros(positive.shape).scatter_reduce_(1, cells.flatten(1), scaled.flatten(1), "amax")
    return assignment(outputs.locations, batch, index, positive, alignment)


def _split(batch: Targets, objects: int) -> list[Targets]:
    parts = (torch.split(tensor, objects, dim=1) for tensor in (batch.boxes, batch.labels, batch.valid))
    return [Targets(*part) for part in zip(*parts, strict=True)]


def _best(outputs: Outputs, predicted: Tensor, batch: Targets, config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Each object's best locations, their alignment (−∞: not inside the box) and IoU: all [B, M, candidates]."""
    boxes, xy = batch.boxes[:, :, None], outputs.locations.xy
    overlap, _ = aligned_iou(boxes, predicted[:, None])  # [B, M, P]
    labels = batch.labels[..., None].expand(-1, -1, len(xy))
    probability = outputs.logits.detach().transpose(1, 2).gather(1, labels).float().sigmoid()
    aligned = probability**config.task_aligned_alpha * overlap**config.task_aligned_beta
    inside = contains(boxes, xy) & batch.valid[..., None]
    best, cells = aligned.where(inside, -torch.inf).topk(min(config.task_aligned_topk, len(xy)), dim=-1)
    return cells, best, overlap.gather(-1, cells)


def _scale(aligned: Tensor, overlap: Tensor) -> Tensor:
    """Alignment of each object's locations [B, M, C], scaled to the object's largest IoU, in 0…1."""
    largest = aligned.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(aligned.dtype).tiny)
    return aligned / largest * overlap.amax(dim=-1, keepdim=True).clamp(max=1)
