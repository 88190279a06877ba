"""Inference, compared with torchvision's `fcos_resnet50_fpn` with the same weights.

Each function returns two sides, ours first, after checking that their detections are the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import FCOS, fcos_resnet50_fpn
from torchvision.models.detection.image_list import ImageList

from benchmarks.harness import Measurement, Side, Unavailable
from fcos.config import InputSize
from fcos.fast.fused import fuse
from fcos.inference import detect
from fcos.locations import make_locations
from fcos.postprocess import Detections
from fcos.structures import Outputs
from fcos.torchvision_weights import TORCHVISION, TORCHVISION_POSTPROCESS, from_torchvision

_TOLERANCE = 1e-4  # of scores; a hundred times that for boxes, in pixels


def images_to_boxes(*, images: int = 1, height: int = 800, width: int = 1066, classes: int = 91) -> tuple[Side, Side]:
    """From pixels to detections: resizing (the images have the right size), normalization, network and NMS.

    Raises:
        AssertionError: the detections differ.
    """
    model = random_model(classes)
    detector = fuse(from_torchvision(model.state_dict(), range(classes)))
    random = torch.Generator().manual_seed(0)
    pixels = [torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=random) for _ in range(images)]
    size = (min(height, width), max(height, width))
    model.transform.min_size, model.transform.max_size = size[:1], size[1]

    def ours() -> list[Detections]:
        return detect(detector, pixels, InputSize(size), TORCHVISION_POSTPROCESS)

    @torch.inference_mode()
    def theirs() -> list[dict[str, Tensor]]:
        detections: list[dict[str, Tensor]] = model([image / 255 for image in pixels])
        return detections

    _check_same(ours(), theirs())
    return ours, theirs


def postprocessing(*, images: int = 8, height: int = 640, width: int = 800, classes: int = 91) -> tuple[Side, Side]:
    """From raw outputs to detections; the outputs resemble those of a trained network, with thirty objects in an image.

    Raises:
        AssertionError: the detections differ.
    """
    shapes = [(-(-height // stride), -(-width // stride)) for stride in TORCHVISION.strides]
    outputs = _realistic_outputs(images, height, width, classes, shapes)
    sizes = [(height, width)] * images
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes)
    batch = ImageList(torch.zeros(images, 1, height, width), sizes)
    anchors = model.anchor_generator(batch, [torch.zeros(1, 1, *shape) for shape in shapes])
    counts = list(outputs.locations.counts)
    assert outputs.quality is not None
    heads = {
        "cls_logits": list(torch.split(outputs.logits, counts, dim=1)),
        "bbox_regression": list(torch.split(outputs.ltrb / outputs.locations.strides[:, None], counts, dim=1)),
        "bbox_ctrness": list(torch.split(outputs.quality[..., None], counts, dim=1)),
    }
    split_anchors = [list(image_anchors.split(counts)) for image_anchors in anchors]

    @torch.inference_mode()
    def ours() -> list[Detections]:
        return TORCHVISION_POSTPROCESS(outputs, sizes)

    @torch.inference_mode()
    def theirs() -> list[dict[str, Tensor]]:
        detections: list[dict[str, Tensor]] = model.postprocess_detections(heads, split_anchors, sizes)
        return detections

    _check_same(ours(), theirs())
    return ours, theirs


def random_model(classes: int) -> FCOS:
    """`fcos_resnet50_fpn` with random weights, of which some scores are above the threshold."""
    torch.manual_seed(0)
    model = fcos_resnet50_fpn(weights=None, weights_backbone=None, num_classes=classes).eval()
    head = model.head
    torch.nn.init.normal_(head.classification_head.cls_logits.weight, std=0.03)
    torch.nn.init.normal_(head.regression_head.bbox_reg.weight, std=0.03)
    torch.nn.init.constant_(head.regression_head.bbox_reg.bias, 4.0)
    return model


def _realistic_outputs(
    images: int, height: int, width: int, classes: int, shapes: Sequence[tuple[int, int]]
) -> Outputs:
    """Background at most locations; near an object's center, its class and box with noise."""
    random = torch.Generator().manual_seed(0)
    locations = make_locations(shapes, TORCHVISION.strides, mode=TORCHVISION.locations)
    count, objects = len(locations.xy), 30
    center = torch.rand(images, objects, 2, generator=random) * torch.tensor([width, height])
    half = (torch.rand(images, objects, 2, generator=random) * 3).exp() * 10
    labels = torch.randint(1, classes, (images, objects), generator=random)
    distances = ((locations.xy[None, :, None] - center[:, None]).abs() / half[:, None]).amax(dim=-1)  # [B, P, M]
    distance, nearest = distances.min(dim=-1)
    index = nearest[..., None].expand(-1, -1, 2)
    low, high = center - half, center + half
    ltrb = torch.cat([locations.xy - low.gather(1, index), high.gather(1, index) - locations.xy], dim=-1)
    logits = torch.randn(images, count, classes, generator=random) - 6
    # A level detects objects in its range of sizes.
    size, (above, up_to) = ltrb.amax(dim=-1), locations.ranges.unbind(-1)
    level = torch.where((size > above) & (size <= up_to), 4.0, -4.0)
    class_logits = (level - 6 * distance + torch.randn(images, count, generator=random)).clamp(min=-6)
    logits.scatter_(2, labels.gather(1, nearest)[..., None], class_logits[..., None])
    noisy = ltrb * (0.9 + 0.2 * torch.rand(ltrb.shape, generator=random))
    return Outputs(logits, noisy.clamp(min=1), 2 - 4 * distance.clamp(max=2), locations)


def _check_same(ours: Sequence[Detections], theirs: Sequence[Mapping[str, Tensor]]) -> None:
    for detections, expected in zip(ours, theirs, strict=True):
        assert len(detections) > 0
        torch.testing.assert_close(detections.scores, expected["scores"], rtol=0, atol=_TOLERANCE)
        torch.testing.assert_close(detections.boxes, expected["boxes"], rtol=0, atol=100 * _TOLERANCE)
        assert torch.equal(detections.labels, expected["labels"])


def _images_to_boxes_bf16() -> tuple[Side, Side]:
    """Like `images_to_boxes`, with ours under autocast to bfloat16; its rounding changes the detections a little."""
    if "avx512_bf16" not in Path("/proc/cpuinfo").read_text():
        raise Unavailable("this CPU has no bfloat16 instructions")
    ours, theirs = images_to_boxes()

    def autocast() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return ours()

    return autocast, theirs


MEASUREMENTS = [
    Measurement("CPU, float32: 1 image of 800×1066 to boxes", 1.3, images_to_boxes),
    Measurement("CPU, bfloat16: 1 image of 800×1066 to boxes", 2.2, _images_to_boxes_bf16),
    Measurement("postprocessing: 8 images of 640×800", 3.0, postprocessing),
]
