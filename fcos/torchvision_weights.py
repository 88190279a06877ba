"""Weights of torchvision's `fcos_resnet50_fpn`, in a detector of ours that says the same."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torchvision.models.detection import FCOS_ResNet50_FPN_Weights

from fcos.config import PAPER
from fcos.detector import Detector, build
from fcos.postprocess import Postprocess

# What torchvision's model is and how it learns. Its box loss is giou.
TORCHVISION = replace(PAPER, pretrained=False, locations="torchvision", box_loss_weighting="none")
TORCHVISION_POSTPROCESS = Postprocess(score_threshold=0.2, score_mode="combined")

_CLASSES = "head.classification_head.cls_logits.weight"
_NAMES = {
    r"backbone\.body\.conv1\.": "backbone.parts.0.0.",
    r"backbone\.body\.bn1\.": "backbone.parts.0.1.",
    r"backbone\.body\.layer(\d)\.": r"backbone.parts.\1.",
    # The convolution itself in files of before torchvision 0.13, as COCO's is; within a block since.
    r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?": r"neck.lateral.\1.",
    r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?": r"neck.output.\1.",
    r"backbone\.fpn\.extra_blocks\.p6\.": "neck.extra.0.",
    r"backbone\.fpn\.extra_blocks\.p7\.": "neck.extra.1.",
    r"head\.classification_head\.conv\.": "head.class_tower.",
    r"head\.classification_head\.cls_logits\.": "head.class_logits.",
    r"head\.regression_head\.conv\.": "head.box_tower.",
    r"head\.regression_head\.bbox_reg\.": "head.box.",
    r"head\.regression_head\.bbox_ctrness\.": "head.quality.",
}


def coco_categories() -> tuple[tuple[int, str], ...]:
    """COCO's 80 categories, ids and names, in the order of its ids; an id is the row of torchvision's 91 classes."""
    names = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple((id, name) for id, name in enumerate(names) if name not in ("__background__", "N/A"))


def count_rows(state: Mapping[str, Tensor]) -> int:
    """Classes of a state dict, background included.

    Raises:
        ValueError: it isn't torchvision's FCOS.
    """
    if _CLASSES not in state:
        raise ValueError(f"not a state dict of torchvision's fcos_resnet50_fpn: it has no {_CLASSES}")
    return len(state[_CLASSES])


def from_torchvision(state: Mapping[str, Tensor], rows: Sequence[int]) -> Detector:
    """A detector, in evaluation mode, with the weights of torchvision's model.

    From the same pixels it gives the same logits, boxes and centerness; its detections are those of
    TORCHVISION_POSTPROCESS, but for boxes without area, which torchvision keeps. torchvision resizes an image without
    antialiasing, which our pipeline does, so that a resized image's scores differ a little.

    Args:
        state: of `fcos_resnet50_fpn`, with batch norm or with frozen batch norm.
        rows: the classes to keep, rows of its classification layer; row 0 is its background, which nothing learns.

    Raises:
        ValueError: the state dict is of another model.
    """
    count_rows(state)
    detector = build(TORCHVISION, len(rows))
    tensors = {_renamed(name): tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    for name in ("head.class_logits.weight", "head.class_logits.bias"):
        tensors[name] = tensors[name][list(rows)]
    own = detector.state_dict()
    scales = {"head.scales": nn.init.ones_(own["head.scales"])}
    counters = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")}
    try:
        detector.load_state_dict(counters | scales | tensors)
    except RuntimeError as error:
        first = " ".join(str(error).split()[:40])  # torch lists every tensor, a line each
        raise ValueError(f"not a state dict of torchvision's fcos_resnet50_fpn: {first}") from None
    return detector.eval()


def _renamed(name: str) -> str:
    for pattern, ours in _NAMES.items():
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", ours, name)
    return name
