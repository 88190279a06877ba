"""Merges the detections of one image at several sizes, and of the mirrored image."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fcos.ops.boxes import aligned_iou
from fcos.postprocess import Detections, Postprocess, hard


def concatenate(parts: Sequence[Detections]) -> Detections:
    """The detections of all parts, one part after another."""
    return Detections(*(torch.cat([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels")))


def by_score(detections: Detections) -> Detections:
    """The detections in descending order of score; equal scores keep their order."""
    return detections[detections.scores.argsort(descending=True, stable=True)]


def suppress(detections: Detections, iou_threshold: float, limit: int) -> Detections:
    """Greedy NMS of each class. The detections are in descending order of score."""
    return hard([detections], Postprocess(nms_iou_threshold=iou_threshold, max_detections=limit))[0]


def merge_by_nms(views: Sequence[Sequence[Detections]], iou_threshold: float, limit: int) -> list[Detections]:
    """Of overlapping boxes of one class, keeps the one with the highest score.

    Args:
        views: for each view, the detections of each image, in pixels of the stored image.
        iou_threshold: IoU above which two boxes overlap.
        limit: largest number of detections of an image.
    """
    return [suppress(by_score(concatenate(image)), iou_threshold, limit) for image in zip(*views, strict=True)]


def merge_by_wbf(views: Sequence[Sequence[Detections]], iou_threshold: float, limit: int) -> list[Detections]:
    """Weighted boxes fusion (Solovyev, Wang and Gabruseva, 1910.13302, section 3): averages overlapping boxes.

    In descending order of score, each box joins the cluster of its class whose fused box has the highest IoU with it,
    or starts a cluster if none has an IoU above the threshold. A fused box is the mean of its cluster, weighted by
    score. Its score is the mean score, times min(boxes, views) / views: fewer views found it than could have.

    The threshold should exceed that of the NMS of each view. Otherwise boxes of low score that NMS has kept beside a
    good one join its cluster, and lower its score.

    Arguments are those of `merge_by_nms`. Computed in float64.
    """
    images = [by_score(concatenate(image)) for image in zip(*views, strict=True)]
    pooled = concatenate(images)
    classes = int(pooled.labels.max()) + 1 if len(pooled) else 1
    image = torch.arange(len(images)).repeat_interleave(torch.tensor([len(detections) for detections in images]))
    group, fused, total, count = _cluster(pooled, image * classes + pooled.labels, iou_threshold)
    scores = total / count * count.clamp(max=len(views)) / len(views)
    merged = Detections(fused.float(), scores.float(), group % classes)
    return [by_score(merged[group // classes == index])[:limit] for index in range(len(images))]


def _cluster(detections: Detections, group: Tensor, iou_threshold: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clusters the boxes of each group (a class of an image), one box of all groups at a time.

    Args:
        detections: N detections, those of a group in descending order of score.
        group: [N], the number of the group of each detection.

    Returns:
        The group [C], fused box [C, 4], sum of scores [C] and number of boxes [C] of each cluster.
    """
    names, boxes, scores = _pad_groups(detections, group)
    # Of each box, and summed in each cluster: coordinates times score, score, 1.
    members = torch.cat([boxes * scores[..., None], scores[..., None], torch.ones_like(scores)[..., None]], dim=-1)
    sums, fused = torch.zeros_like(members), torch.zeros_like(boxes)
    clusters = torch.zeros(len(names), dtype=torch.int64)
    active = (scores > 0).sum(dim=0).tolist()  # at each step, the groups that have a box left, which come first
    for step, groups in enumerate(active):
        most = int(clusters.max()) + 1
        iou, _ = aligned_iou(boxes[:groups, step, None], fused[:groups, :most])  # 0 where there is no cluster yet
        best, nearest = iou.max(dim=1)
        is_new = best <= iou_threshold
        row, cluster = torch.arange(groups), torch.where(is_new, clusters[:groups], nearest)
        clusters[:groups] += is_new
        sums[row, cluster] = total = sums[row, cluster] + members[:groups, step]
        fused[row, cluster] = total[:, :4] / total[:, 4:5]
    exists = torch.arange(len(active)) < clusters[:, None]
    _, total, count = torch.split(sums[exists], [4, 1, 1], dim=1)
    return names[exists.nonzero()[:, 0]], fused[exists], total.squeeze(1), count.squeeze(1)


def _pad_groups(detections: Detections, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The groups [G], the largest first, boxes [G, S, 4] and scores [G, S], float64, 0 in the padding."""
    names, sizes = torch.unique(group, return_counts=True)
    if not len(names):
        return names, torch.zeros(0, 0, 4), torch.zeros(0, 0)
    by_name = torch.split(group.argsort(stable=True), sizes.tolist())
    largest_first = sizes.argsort(descending=True, stable=True)
    members = [by_name[index] for index in largest_first.tolist()]
    scores = detections.scores.double().clamp(min=torch.finfo(torch.float64).tiny)
    boxes, scores = (
        pad_sequence([values[index] for index in members], batch_first=True)
        for values in (detections.boxes.double(), scores)
    )
    return names[largest_first], boxes, scores


MERGES: dict[str, Callable[[Sequence[Sequence[Detections]], float, int], list[Detections]]] = {
    "nms": merge_by_nms,
    "wbf": merge_by_wbf,
}
