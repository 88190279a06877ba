"""Non-maximum suppression by torchvision's compiled operator."""

import torch
from torch import Tensor

from fcos.ops.torchvision_library import load_operators

load_operators("_C")


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS: removes each box whose IoU with a kept box of higher score exceeds the threshold.

    Args:
        boxes: [N, 4] x1, y1, x2, y2.
        scores: [N], of the boxes' type.

    Returns:
        Indices of the kept boxes, by descending score.
    """
    kept: Tensor = torch.ops.torchvision.nms(boxes, scores, iou_threshold)
    return kept
