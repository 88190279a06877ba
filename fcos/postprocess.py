"""Outputs in, detections out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import nms

from fcos.ops.boxes import aligned_iou, boxes_from_ltrb
from fcos.structures import Outputs

_SLACK = 1e-3  # the first, rough threshold on logits is lower by this: rounding mustn't cost a candidate
_CERTAIN = 0.999  # and it asks for no higher probability
_PREFIX = 4  # suppression looks at so many times the boxes wanted; where they don't suffice, at so many times more


@dataclass(frozen=True)
class Detections:
    """One image's detections, best first."""

    boxes: Tensor  # [N, 4] x1, y1, x2, y2 in pixels
    scores: Tensor  # [N] in 0…1
    labels: Tensor  # [N] int64, 0…K−1

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> "Detections":
        return Detections(self.boxes[index], self.scores[index], self.labels[index])


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """What becomes of a prediction: the paper's code has 0.05, 1000 a level, 0.6 and 100.

    The score is the geometric mean of the class's probability and the quality (TPAMI paper, equation 4), or the former
    alone where there is no quality. It is computed in float64, so that equal predictions have equal scores wherever
    they lie in memory. Of equal scores, the first location's goes first, then the first class's.
    """

    score_threshold: float = 0.05  # candidates need more
    # The score meant by the threshold: class probability (the paper), or combined with the quality (torchvision).
    score_mode: Literal["class", "combined"] = "class"
    pre_nms_topk: int = 1000  # best of each level that go on
    nms: Literal["hard", "soft_linear", "soft_gaussian"] = "hard"  # a name of SUPPRESSIONS
    nms_iou_threshold: float = (
        0.6  # hard and soft_linear: IoU of two boxes of one class above which the lower score suffers
    )
    soft_nms_sigma: float = 0.5  # soft_gaussian: how gently
    max_detections: int = 100  # best of an image that stay

    def __call__(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image.

        Args:
            outputs: of a batch of B.
            sizes: height and width of each image in the batch, without padding: boxes end there.
        """
        found = _candidates(outputs, self)
        boxes = boxes_from_ltrb(outputs.locations.xy[found.location], outputs.ltrb[found.image, found.location])
        ends = torch.tensor(sizes, dtype=boxes.dtype, device=boxes.device).flip(-1).repeat(1, 2)
        boxes = boxes.clamp(min=0).minimum(ends[found.image])
        whole = (boxes[:, 2:] > boxes[:, :2]).all(dim=-1)  # relu can give a box without area, and so does padding
        found, boxes = found[whole], boxes[whole]
        order = found.score.argsort(descending=True, stable=True)
        order = order[found.image[order].argsort(stable=True)]
        best = Detections(boxes, found.score, found.label)[order]
        images = [best[start:end] for start, end in pairwise(_bounds(found.image, len(sizes)))]
        return SUPPRESSIONS[self.nms](images, self)


@dataclass(frozen=True)
class _Candidates:
    """Predictions of one class at one location of one image, [N], in the order of images, locations and classes."""

    image: Tensor
    location: Tensor
    label: Tensor
    score: Tensor

    def __getitem__(self, index: Tensor) -> "_Candidates":
        return _Candidates(self.image[index], self.location[index], self.label[index], self.score[index])


def _candidates(outputs: Outputs, how: Postprocess) -> _Candidates:
    """The best predictions above the threshold.

    All logits are looked at once, for each location's highest: what follows touches the few locations that matter.
    """
    logits, floor = outputs.logits.flatten(0, 1), _floor(how, outputs)
    place = (logits.amax(dim=-1) > floor).nonzero().squeeze(-1)
    row, label = (logits.index_select(0, place) > floor[place, None]).nonzero(as_tuple=True)
    place = place[row]
    score = probability = logits[place, label].double().sigmoid()
    if outputs.quality is not None:
        score = (probability * outputs.quality.flatten()[place].double().sigmoid()).sqrt()
    sure = (probability if how.score_mode == "class" else score) > how.score_threshold
    locations = outputs.logits.shape[1]
    found = _Candidates(place // locations, place % locations, label, score.float())[sure]
    return found[_best_of_levels(found, outputs, how.pre_nms_topk)]


def _floor(how: Postprocess, outputs: Outputs) -> Tensor:
    """The logit that a class must exceed, or a little less, at each location of each image: [B·P].

    p > t where its logit exceeds ln(t / (1 − t)); sqrt(p·q) > t where p > t²/q.
    """
    if how.score_mode == "class" or outputs.quality is None:
        needed = torch.full(outputs.logits.shape[:2], how.score_threshold, device=outputs.logits.device)
    else:
        needed = how.score_threshold**2 / outputs.quality.float().sigmoid()
    # Nearer to 1, float32 would be wrong by more than the slack.
    return (needed.clamp(max=_CERTAIN).logit() - _SLACK).flatten()


def _best_of_levels(found: _Candidates, outputs: Outputs, count: int) -> Tensor:
    """Indices, rising, of the candidates among the best `count` of their image's level."""
    levels = outputs.locations.counts
    ends = torch.tensor(levels, device=found.location.device).cumsum(0)
    group = found.image * len(levels) + torch.bucketize(found.location, ends, right=True)
    bounds = _bounds(group, len(outputs.logits) * len(levels))
    return torch.cat([_highest(found.score[start:end], count) + start for start, end in pairwise(bounds)])


def _highest(scores: Tensor, count: int) -> Tensor:
    """Indices, rising, of the `count` highest of scores [N]; of equal ones the first."""
    if len(scores) <= count:
        return torch.arange(len(scores), device=scores.device)
    last = scores.topk(count).values[-1]
    above = scores > last
    tied = (scores == last).nonzero().squeeze(-1)[: count - int(above.sum())]
    return torch.cat([above.nonzero().squeeze(-1), tied]).sort().values


def _bounds(groups: Tensor, count: int) -> list[int]:
    """Where each of `count` groups begins in a sorted list of group numbers, and where the last one ends."""
    ends: list[int] = groups.bincount(minlength=count).cumsum(0).tolist()
    return [0, *ends]


def hard(images: Sequence[Detections], how: Postprocess) -> list[Detections]:
    """A box goes where it overlaps a better one of its class that stays: greedy NMS, image by image."""
    return [one[_survivors(one, how)] for one in images]


def _survivors(found: Detections, how: Postprocess) -> Tensor:
    """Indices of the best boxes that stay: what stays of the first so many boxes doesn't depend on later ones."""
    boxes, scores = found.boxes.double(), found.scores.double()
    # Classes side by side, where boxes of two never meet; in float64, where the distance costs no digit that counts.
    apart = boxes + (found.labels * (1 + boxes.amax() if len(boxes) else 1))[:, None]
    size = how.max_detections * _PREFIX
    kept = nms(apart[:size], scores[:size], how.nms_iou_threshold)
    while len(kept) < how.max_detections and size < len(found):
        size *= _PREFIX
        kept = nms(apart[:size], scores[:size], how.nms_iou_threshold)
    best: Tensor = kept[: how.max_detections]
    return best


def soft_linear(images: Sequence[Detections], how: Postprocess) -> list[Detections]:
    """Soft-NMS (Bodla et al., 1704.04503, equation 2): score · (1 − IoU) where the IoU is above the threshold."""
    return _soft(images, how.max_detections, lambda iou: 1 - iou * (iou > how.nms_iou_threshold))


def soft_gaussian(images: Sequence[Detections], how: Postprocess) -> list[Detections]:
    """Soft-NMS (Bodla et al., 1704.04503, equation 3): score · exp(−IoU²/sigma)."""
    return _soft(images, how.max_detections, lambda iou: (-(iou**2) / how.soft_nms_sigma).exp())


def _soft(images: Sequence[Detections], limit: int, decay: Callable[[Tensor], Tensor]) -> list[Detections]:
    """Takes the best box, lets the others of its class sink, and again, in all images at once.

    Scores only sink: boxes behind the first so many can be left out as long as the last box taken is no worse than the
    best of them was from the beginning.
    """
    boxes = pad_sequence([one.boxes.double() for one in images], batch_first=True)
    scores = pad_sequence([one.scores.double() for one in images], batch_first=True)
    labels = pad_sequence([one.labels for one in images], batch_first=True)
    size = limit * _PREFIX
    picked, score = _sink(boxes[:, :size], scores[:, :size], labels[:, :size], limit, decay)
    while size < scores.shape[1] and bool((score[:, -1] < scores[:, size]).any()):
        size *= _PREFIX
        picked, score = _sink(boxes[:, :size], scores[:, :size], labels[:, :size], limit, decay)
    return [
        Detections(one.boxes[index[value > 0]], value[value > 0].float(), one.labels[index[value > 0]])
        for one, index, value in zip(images, picked, score, strict=True)
    ]


def _sink(
    boxes: Tensor, scores: Tensor, labels: Tensor, limit: int, decay: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Indices and final scores [B, n] of the boxes taken, n ≤ limit; a score of 0 is none."""
    taken: list[Tensor] = []
    final: list[Tensor] = []
    for _ in range(min(limit, scores.shape[1])):
        best = scores.argmax(dim=1, keepdim=True)
        taken.append(best)
        final.append(scores.gather(1, best))
        iou, _ = aligned_iou(boxes.gather(1, best[..., None].expand(-1, -1, 4)), boxes)
        sunk = torch.where(labels == labels.gather(1, best), scores * decay(iou), scores)
        scores = sunk.scatter(1, best, 0.0)
    none = scores.new_zeros(len(scores), 0)
    return torch.cat([none.long(), *taken], dim=1), torch.cat([none, *final], dim=1)


SUPPRESSIONS: dict[str, Callable[[Sequence[Detections], Postprocess], list[Detections]]] = {
    "hard": hard,
    "soft_linear": soft_linear,
    "soft_gaussian": soft_gaussian,
}
