"""Conversion of torchvision's `fcos_resnet50_fpn` weights to a detector with the same outputs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from fcos.backbones.state_dicts import describe_mismatch
from fcos.config import PAPER
from fcos.detector import Detector, build
from fcos.postprocess import Postprocess

# Architecture and losses of torchvision's model; its box loss is giou.
TORCHVISION = replace(PAPER, pretrained=False, locations="torchvision", box_loss_weighting="none")
TORCHVISION_POSTPROCESS = Postprocess(score_threshold=0.2, score_mode="combined")

COCO_ROWS = 91  # classes of the COCO weights: the background and COCO's ids, including unused ones
CLASSES = "head.classification_head.cls_logits.weight"
_NAMES = {
    r"backbone\.body\.conv1\.": "backbone.parts.0.0.",
    r"backbone\.body\.bn1\.": "backbone.parts.0.1.",
    r"backbone\.body\.layer(\d)\.": r"backbone.parts.\1.",
    # Before torchvision 0.13, also in the COCO weights, the convolution itself; in a block since then.
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
    """Ids and names of COCO's 80 categories; the id is the row in torchvision's 91 classes."""
    from torchvision.models.detection import FCOS_ResNet50_FPN_Weights  # takes a second to import

    names = FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return tuple((id, name) for id, name in enumerate(names) if name not in ("__background__", "N/A"))


def count_rows(state: Mapping[str, Tensor]) -> int:
    """Number of classes of a state dict, including the background.

    Raises:
        ValueError: the state dict is not torchvision's FCOS.
    """
    if CLASSES not in state or not state[CLASSES].ndim:
        raise ValueError(f"not a state dict of torchvision's fcos_resnet50_fpn: it has no {CLASSES}")
    return len(state[CLASSES])


def from_torchvision(state: Mapping[str, Tensor], rows: Sequence[int]) -> Detector:
    """Builds a detector with the weights of torchvision's model, in evaluation mode.

    Its logits, boxes and centerness are torchvision's. With TORCHVISION_POSTPROCESS, so are its detections, except that
    torchvision keeps boxes without area. torchvision resizes images without antialiasing, so scores of images resized
    with antialiasing differ slightly.

    Args:
        state: state dict of `fcos_resnet50_fpn`, with batch norm or frozen batch norm.
        rows: the classes to keep, as rows of its classification layer. Row 0, the background, is never trained.

    Raises:
        ValueError: the state dict belongs to another model.
    """
    count_rows(state)
    detector = build(TORCHVISION, len(rows))
    tensors = {
        rename_tensor(name): tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")
    }
    for name in ("head.class_logits.weight", "head.class_logits.bias"):
        tensors[name] = tensors[name][list(rows)]
    state_dict = detector.state_dict()
    scales = {"head.scales": nn.init.ones_(state_dict["head.scales"])}
    counters = {name: tensor for name, tensor in state_dict.items() if name.endswith("num_batches_tracked")}
    given = counters | scales | tensors
    expected, shapes = ({name: tuple(tensor.shape) for name, tensor in state.items()} for state in (state_dict, given))
    if mismatch := describe_mismatch(expected, shapes):
        raise ValueError(f"not a state dict of torchvision's fcos_resnet50_fpn: {mismatch}")
    detector.load_state_dict(given)
    return detector.eval()


def rename_tensor(name: str) -> str:
    """The detector's name of a tensor of torchvision's model; an unknown name is returned as it is."""
    for pattern, ours in _NAMES.items():
        if re.match(pattern, name):
            return re.sub(f"^{pattern}", ours, name)
    return name
