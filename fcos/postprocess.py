"""Post-processing: from outputs to detections."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fcos.ops.boxes import aligned_iou, boxes_from_ltrb
from fcos.ops.nms import nms
from fcos.structures import Outputs

_SLACK = 1e-3  # lowers the preselection's threshold on logits, so that rounding loses no candidate
_MAX_PROBABILITY = 0.999  # highest probability that the preselection requires
_PREFIX = 4  # suppression starts with this many times `max_detections` boxes, and multiplies them if too few remain


@dataclass(frozen=True)
class Detections:
    """Detections of one image, in descending order of score."""

    boxes: Tensor  # [N, 4] x1, y1, x2, y2 in pixels
    scores: Tensor  # [N] in 0…1
    labels: Tensor  # [N] int64, 0…K−1

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> "Detections":
        return Detections(self.boxes[index], self.scores[index], self.labels[index])


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """Thresholds, suppression and limits that turn outputs into detections; the defaults are those of the paper's code.

    The score is the geometric mean of the class probability and the quality (TPAMI paper, equation 4), or the class
    probability alone if there is no quality. It is computed in float64, so that equal predictions have equal scores
    wherever they lie in memory. Detections with equal scores are ordered by location, then by class.
    """

    score_threshold: float = 0.05  # candidates have a score above it
    # What the threshold applies to: class probability (the paper), or its combination with the quality (torchvision).
    score_mode: Literal["class", "combined"] = "class"
    pre_nms_topk: int = 1000  # number of candidates kept from each level
    nms: Literal["hard", "soft_linear", "soft_gaussian"] = "hard"  # a name of SUPPRESSIONS
    # hard and soft_linear: IoU with a better box of the same class above which a box is removed or its score decayed
    nms_iou_threshold: float = 0.6
    soft_nms_sigma: float = 0.5  # soft_gaussian: a larger sigma decays scores less
    max_detections: int = 100  # number of detections kept in each image

    def __call__(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Computes the detections of each image.

        Args:
            outputs: of a batch of B images.
            sizes: height and width of each image without padding; boxes are clipped there.
        """
        candidates = _candidates(outputs, self)
        boxes = boxes_from_ltrb(
            outputs.locations.xy[candidates.location], outputs.ltrb[candidates.image, candidates.location]
        )
        ends = torch.tensor(sizes, dtype=boxes.dtype, device=boxes.device).flip(-1).repeat(1, 2)
        boxes = boxes.clamp(min=0).minimum(ends[candidates.image])
        valid = (boxes[:, 2:] > boxes[:, :2]).all(dim=-1)  # relu and clipping can give boxes without area
        candidates, boxes = candidates[valid], boxes[valid]
        order = candidates.score.argsort(descending=True, stable=True)
        order = order[candidates.image[order].argsort(stable=True)]
        best = Detections(boxes, candidates.score, candidates.label)[order]
        images = [best[start:end] for start, end in pairwise(_bounds(candidates.image, len(sizes)))]
        return SUPPRESSIONS[self.nms](images, self)


@dataclass(frozen=True)
class _Candidates:
    """N predictions, each of one class at one location of one image, ordered by image, location and class."""

    image: Tensor
    location: Tensor
    label: Tensor
    score: Tensor

    def __getitem__(self, index: Tensor) -> "_Candidates":
        return _Candidates(self.image[index], self.location[index], self.label[index], self.score[index])


def _candidates(outputs: Outputs, config: Postprocess) -> _Candidates:
    """The best predictions above the threshold.

    One pass over all logits finds each location's maximum; all further steps use the few locations above the threshold.
    """
    logits, floor = outputs.logits.flatten(0, 1), _floor(config, outputs)
    index = (logits.amax(dim=-1) > floor).nonzero().squeeze(-1)
    row, label = (logits.index_select(0, index) > floor[index, None]).nonzero(as_tuple=True)
    index = index[row]
    score = probability = logits[index, label].double().sigmoid()
    if outputs.quality is not None:
        score = (probability * outputs.quality.flatten()[index].double().sigmoid()).sqrt()
    above = (probability if config.score_mode == "class" else score) > config.score_threshold
    locations = outputs.logits.shape[1]
    candidates = _Candidates(index // locations, index % locations, label, score.float())[above]
    return candidates[_best_of_levels(candidates, outputs, config.pre_nms_topk)]


def _floor(config: Postprocess, outputs: Outputs) -> Tensor:
    """A lower limit of the logits of candidates, for each location of each image: [B·P].

    p > t if the logit exceeds ln(t / (1 − t)); sqrt(p·q) > t if p > t²/q.
    """
    if config.score_mode == "class" or outputs.quality is None:
        needed = torch.full(outputs.logits.shape[:2], config.score_threshold, device=outputs.logits.device)
    else:
        needed = config.score_threshold**2 / outputs.quality.float().sigmoid()
    # Closer to 1, float32's rounding error would exceed the slack.
    return (needed.clamp(max=_MAX_PROBABILITY).logit() - _SLACK).flatten()


def _best_of_levels(candidates: _Candidates, outputs: Outputs, count: int) -> Tensor:
    """Increasing indices of the candidates that are among the best `count` of their image's level."""
    levels = outputs.locations.counts
    ends = torch.tensor(levels, device=candidates.location.device).cumsum(0)
    group = candidates.image * len(levels) + torch.bucketize(candidates.location, ends, right=True)
    bounds = _bounds(group, len(outputs.logits) * len(levels))
    return torch.cat([_highest(candidates.score[start:end], count) + start for start, end in pairwise(bounds)])


def _highest(scores: Tensor, count: int) -> Tensor:
    """Increasing indices of the `count` highest scores [N]; of equal scores, the first."""
    if len(scores) <= count:
        return torch.arange(len(scores), device=scores.device)
    last = scores.topk(count).values[-1]
    above = scores > last
    tied = (scores == last).nonzero().squeeze(-1)[: count - int(above.sum())]
    return torch.cat([above.nonzero().squeeze(-1), tied]).sort().values


def _bounds(groups: Tensor, count: int) -> list[int]:
    """Start of each of `count` groups in a sorted list of group numbers, and the end of the last group."""
    ends: list[int] = groups.bincount(minlength=count).cumsum(0).tolist()
    return [0, *ends]


def hard(images: Sequence[Detections], config: Postprocess) -> list[Detections]:
    """Greedy NMS, image by image: removes a box whose IoU with a better box of its class exceeds the threshold."""
    return [detections[_kept(detections, config)] for detections in images]


def _kept(detections: Detections, config: Postprocess) -> Tensor:
    """Indices of the kept boxes. Which of the first n boxes are kept does not depend on later boxes."""
    boxes, scores = detections.boxes.double(), detections.scores.double()
    # Boxes of different classes are shifted apart, so that they do not intersect; float64 keeps their precision.
    shifted = boxes + (detections.labels * (1 + boxes.amax() if len(boxes) else 1))[:, None]
    size = config.max_detections * _PREFIX
    kept = nms(shifted[:size], scores[:size], config.nms_iou_threshold)
    while len(kept) < config.max_detections and size < len(detections):
        size *= _PREFIX
        kept = nms(shifted[:size], scores[:size], config.nms_iou_threshold)
    best: Tensor = kept[: config.max_detections]
    return best


def soft_linear(images: Sequence[Detections], config: Postprocess) -> list[Detections]:
    """Soft-NMS (Bodla et al., 1704.04503, equation 2): score · (1 − IoU) if the IoU is above the threshold."""
    return _soft(images, config.max_detections, lambda iou: 1 - iou * (iou > config.nms_iou_threshold))


def soft_gaussian(images: Sequence[Detections], config: Postprocess) -> list[Detections]:
    """Soft-NMS (Bodla et al., 1704.04503, equation 3): score · exp(−IoU²/sigma)."""
    return _soft(images, config.max_detections, lambda iou: (-(iou**2) / config.soft_nms_sigma).exp())


def _soft(images: Sequence[Detections], limit: int, decay: Callable[[Tensor], Tensor]) -> list[Detections]:
    """Repeatedly picks the best box and decays the scores of the others of its class, in all images at once.

    Scores only decrease. Boxes after the first `size` can be ignored as long as the last box picked has at least their
    highest initial score.
    """
    boxes = pad_sequence([detections.boxes.double() for detections in images], batch_first=True)
    scores = pad_sequence([detections.scores.double() for detections in images], batch_first=True)
    labels = pad_sequence([detections.labels for detections in images], batch_first=True)
    size = limit * _PREFIX
    picked, score = _pick(boxes[:, :size], scores[:, :size], labels[:, :size], limit, decay)
    while size < scores.shape[1] and bool((score[:, -1] < scores[:, size]).any()):
        size *= _PREFIX
        picked, score = _pick(boxes[:, :size], scores[:, :size], labels[:, :size], limit, decay)
    return [
        Detections(detections.boxes[index[value > 0]], value[value > 0].float(), detections.labels[index[value > 0]])
        for detections, index, value in zip(images, picked, score, strict=True)
    ]


def _pick(
    boxes: Tensor, scores: Tensor, labels: Tensor, limit: int, decay: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Indices and final scores [B, n] of the picked boxes, n ≤ limit; a score of 0 means no box."""
    picked: list[Tensor] = []
    final: list[Tensor] = []
    for _ in range(min(limit, scores.shape[1])):
        best = scores.argmax(dim=1, keepdim=True)
        picked.append(best)
        final.append(scores.gather(1, best))
        iou, _ = aligned_iou(boxes.gather(1, best[..., None].expand(-1, -1, 4)), boxes)
        decayed = torch.where(labels == labels.gather(1, best), scores * decay(iou), scores)
        scores = decayed.scatter(1, best, 0.0)
    empty = scores.new_zeros(len(scores), 0)
    return torch.cat([empty.long(), *picked], dim=1), torch.cat([empty, *final], dim=1)


SUPPRESSIONS: dict[str, Callable[[Sequence[Detections], Postprocess], list[Detections]]] = {
    "hard": hard,
    "soft_linear": soft_linear,
    "soft_gaussian": soft_gaussian,
}


def detect_in_groups(
    detect_batch: Callable[[Sequence[Tensor]], list[Detections]],
    images: Sequence[Tensor],
    keys: Sequence[Hashable],
) -> list[Detections]:
    """The detections of each image; those whose keys are equal, such as their sizes, share a batch."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        groups[key].append(index)
    found: dict[int, Detections] = {}
    for indices in groups.values():
        found.update(zip(indices, detect_batch([images[index] for index in indices]), strict=True))
    return [found[index] for index in range(len(images))]
