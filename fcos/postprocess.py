"""Outputs in, detections out."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from fcos.boxes import boxes_from_ltrb, clip
from fcos.outputs import Outputs


@dataclass(frozen=True)
class Detections:
    """One image's detections, best first."""

    boxes: Tensor  # [N, 4] x1, y1, x2, y2 in pixels
    scores: Tensor  # [N] in 0…1
    labels: Tensor  # [N] int64, 0…K−1


@dataclass(frozen=True, kw_only=True)
class Postprocess:
    """What becomes of a prediction: the paper's code has 0.05, 1000 a level, 0.6 and 100."""

    score_threshold: float = 0.05  # candidates need this class probability, before centerness comes in
    candidates: int = 1000  # best of each level that go on
    nms_threshold: float = 0.6  # IoU of two boxes of one class above which the lower score goes
    max_detections: int = 100  # best of an image that stay

    def __call__(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections of each image.

        Args:
            outputs: of a batch of B.
            sizes: height and width of each image in the batch, without padding: boxes end there.
        """
        probability = outputs.logits.float().sigmoid()
        # The one place where class and centerness meet: the geometric mean (TPAMI paper, equation 4).
        scores = (probability * outputs.quality.float().sigmoid()[..., None]).sqrt()
        boxes = boxes_from_ltrb(outputs.points.locations, outputs.ltrb)
        return [
            self._image(scores[i].masked_fill(probability[i] <= self.score_threshold, 0), boxes[i], outputs, size)
            for i, size in enumerate(sizes)
        ]

    def _image(self, scores: Tensor, boxes: Tensor, outputs: Outputs, size: tuple[int, int]) -> Detections:
        classes = scores.shape[-1]
        kept, start = [], 0
        for level in torch.split(scores.flatten(), [count * classes for count in outputs.points.counts]):
            index = level.topk(min(self.candidates, len(level))).indices
            kept.append(index + start)
            start += len(level)
        best = torch.cat(kept)
        best = best[scores.flatten()[best] > 0]
        location, labels = best // classes, best % classes
        found = clip(boxes[location], *size)
        whole = (found[:, 2:] > found[:, :2]).all(dim=-1)  # relu can give a box without area
        found, labels, score = found[whole], labels[whole], scores.flatten()[best][whole]
        keep = batched_nms(found, score, labels, self.nms_threshold)[: self.max_detections]
        return Detections(boxes=found[keep], scores=score[keep], labels=labels[keep])
