"""torchvision's FCOS and this detector with the same weights have the same outputs, losses and detections."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FCOS

from fcos.criterion import Criterion
from fcos.detector import Detector
from fcos.structures import Outputs, make_targets
from fcos.torchvision_weights import (
    TORCHVISION,
    TORCHVISION_POSTPROCESS,
    coco_categories,
    from_torchvision,
)

CLASSES = 7
SIZES = [(160, 224), (150, 201), (97, 160)]  # padded to 160×224, which is no multiple of the strides of P6 and P7


@pytest.fixture(scope="module")
def theirs(random_fcos: Callable[[int], FCOS]) -> FCOS:
    model = random_fcos(CLASSES)
    model.transform._skip_resize = True
    return model


@pytest.fixture(scope="module")
def ours(theirs: FCOS) -> Detector:
    """In torchvision's memory format, since kernels of other formats round differently."""
    return from_torchvision(theirs.state_dict(), range(CLASSES)).to(memory_format=torch.contiguous_format)


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=random) for size in SIZES]


@pytest.fixture(scope="module")
def outputs(ours: Detector, images: list[Tensor]) -> Outputs:
    with torch.no_grad():
        return ours(ours.prepare(images).contiguous())


def floats(images: list[Tensor]) -> list[Tensor]:
    return [image / 255 for image in images]


def evaluation_mode(model: FCOS) -> FCOS:
    """Evaluation mode for all parts except the transform, which resizes no images in training mode."""
    model.eval()
    model.transform.train()
    return model


def test_raw_outputs(theirs: FCOS, images: list[Tensor], outputs: Outputs) -> None:
    with torch.no_grad():
        batch, _ = evaluation_mode(theirs).transform(floats(images))
        features = list(theirs.backbone(batch.tensors).values())
        head = theirs.head(features)
        anchors = theirs.anchor_generator(batch, features)[0]
    strides = anchors[:, 2] - anchors[:, 0]
    centers = torch.stack([anchors[:, 0] + anchors[:, 2], anchors[:, 1] + anchors[:, 3]], dim=-1) / 2
    assert torch.equal(outputs.locations.xy, centers)
    assert torch.equal(outputs.locations.strides, strides)
    assert outputs.quality is not None
    assert head["cls_logits"].std() > 0.5
    for actual, expected in (
        (outputs.logits, head["cls_logits"]),
        (outputs.ltrb / strides[:, None], head["bbox_regression"]),
        (outputs.quality, head["bbox_ctrness"].squeeze(-1)),
    ):
        # Convolutions of different memory formats sum in different orders: 2e-5 on a CPU without AVX-512.
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_detections(theirs: FCOS, images: list[Tensor], outputs: Outputs) -> None:
    """Except for boxes without area, which this detector removes before it selects the best hundred."""
    theirs.detections_per_img = 10**6
    with torch.no_grad():
        expected = evaluation_mode(theirs)(floats(images))
    for detections, reference in zip(TORCHVISION_POSTPROCESS(outputs, SIZES), expected, strict=True):
        boxes = reference["boxes"]
        nonempty = (boxes[:, 2:] > boxes[:, :2]).all(dim=-1)
        assert len(detections) == 100
        assert len(set(detections.labels.tolist())) > 1
        torch.testing.assert_close(detections.scores, reference["scores"][nonempty][:100], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(detections.boxes, boxes[nonempty][:100], rtol=1e-4, atol=1e-3)
        assert torch.equal(detections.labels, reference["labels"][nonempty][:100])


def objects(size: tuple[int, int], count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Boxes of all sizes at whole pixels, where torchvision's open ranges and its location grid make a difference."""
    random = torch.Generator().manual_seed(seed)
    limit = torch.tensor([size[1], size[0]])
    sides = (torch.rand(count, 2, generator=random) ** 2 * (limit - 8)).long() + 8
    corner = (torch.rand(count, 2, generator=random) * (limit - sides)).long()
    labels = torch.randint(1, CLASSES, (count,), generator=random)
    return torch.cat([corner, corner + sides], dim=-1).float(), labels


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("counts", [(3, 1, 12), (0, 5, 2), (0, 0, 0)])
def test_losses(theirs: FCOS, ours: Detector, images: list[Tensor], counts: tuple[int, ...], seed: int) -> None:
    targets = [
        objects(size, count, seed + 10 * index) for index, (size, count) in enumerate(zip(SIZES, counts, strict=True))
    ]
    theirs.train()
    theirs.backbone.eval()  # freezes its batch norm, which is frozen in this detector too
    ours.train()
    ours.backbone.eval()
    with torch.no_grad():
        expected = theirs(floats(images), [{"boxes": boxes, "labels": labels} for boxes, labels in targets])
        losses = Criterion(TORCHVISION, box_loss="giou")(
            ours(ours.prepare(images).contiguous()),
            make_targets([boxes for boxes, _ in targets], [labels for _, labels in targets]),
        )
    assert (losses.positives > 0) == any(counts)
    torch.testing.assert_close(losses.classification, expected["classification"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses.box, expected["bbox_regression"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses.quality, expected["bbox_ctrness"], rtol=1e-5, atol=1e-6)


def test_the_names_of_the_published_coco_weights(theirs: FCOS, ours: Detector) -> None:
    """The published file has the neck's names from before torchvision 0.13, and no counters of batches."""
    old = OrderedDict(
        (name.replace(".0.weight", ".weight").replace(".0.bias", ".bias") if "fpn" in name else name, tensor)
        for name, tensor in theirs.state_dict().items()
        if not name.endswith("num_batches_tracked")
    )
    assert "backbone.fpn.inner_blocks.0.weight" in old
    state = from_torchvision(old, range(CLASSES)).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in ours.state_dict().items())


def test_coco_has_80_categories() -> None:
    categories = coco_categories()
    assert len(categories) == 80
    assert (categories[0], categories[11], categories[79]) == ((1, "person"), (13, "stop sign"), (90, "toothbrush"))


def test_classes_can_be_selected(theirs: FCOS, ours: Detector) -> None:
    detector = from_torchvision(theirs.state_dict(), [2, 5])
    assert torch.equal(detector.head.class_logits.weight, ours.head.class_logits.weight[[2, 5]])


@pytest.mark.parametrize("missing", ["head.classification_head.cls_logits.weight", "backbone.fpn.extra_blocks.p6.bias"])
def test_the_state_dict_of_another_model_is_an_error(theirs: FCOS, missing: str) -> None:
    state = {name: tensor for name, tensor in theirs.state_dict().items() if name != missing}
    with pytest.raises(ValueError, match="not a state dict of torchvision's fcos_resnet50_fpn: ") as error:
        from_torchvision(state, [1])
    assert "\n" not in str(error.value)
