"""The detector: preparation of images, shapes of outputs, locations, and invalid configurations."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from fcos.config import PAPER
from fcos.detector import Detector, build
from fcos.locations import make_locations

SMALL = replace(
    PAPER, backbone="tiny", pretrained=False, channels=32, tower_depth=1, frozen_stages=0, batch_norm="auto"
)


def image(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


def test_prepare_normalizes_and_pads_with_zero() -> None:
    detector = build(SMALL, 2)
    white = torch.full((3, 40, 33), 255, dtype=torch.uint8)
    batch = detector.prepare([white, image(20, 64)])
    assert batch.shape == (2, 3, 64, 64)
    expected = (1 - torch.tensor(detector.backbone.mean)) / torch.tensor(detector.backbone.std)
    torch.testing.assert_close(batch[0, :, 39, 32], expected)
    assert batch[0, :, 40:].abs().max() == 0
    assert batch[0, :, :, 33:].abs().max() == 0


def test_normalization_can_be_set() -> None:
    detector = build(SMALL, 2)
    detector.set_normalization(mean=(1.0, 0.5, 0.0), std=(1.0, 0.5, 0.25))
    white = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    assert detector.prepare([white])[0, :, 0, 0].tolist() == [0, 1, 4]
    assert (detector.backbone.mean, detector.backbone.std) == ((1.0, 0.5, 0.0), (1.0, 0.5, 0.25))


@pytest.mark.parametrize("neck", ["fpn", "pan", "bifpn"])
@pytest.mark.parametrize("levels", [(3, 4, 5, 6, 7), (4, 5), (5, 6)])
def test_shapes_for_images_of_different_sizes(neck: Any, levels: tuple[int, ...]) -> None:
    detector: Detector = build(replace(SMALL, neck=neck, levels=levels), 7).eval()
    with torch.no_grad():
        outputs = detector(detector.prepare([image(96, 128), image(64, 100)]))
    locations = sum(math.ceil(96 / s) * math.ceil(128 / s) for s in detector.config.strides)
    assert outputs.logits.shape == (2, locations, 7)
    assert outputs.ltrb.shape == (2, locations, 4)
    assert outputs.quality.shape == (2, locations)
    assert outputs.locations.xy.shape == (locations, 2)
    assert (outputs.ltrb >= 0).all()


def test_a_single_small_image_has_one_cell_on_p6_and_p7() -> None:
    detector = build(SMALL, 2).eval()
    assert [grid.count for grid in detector(detector.prepare([image(20, 30)])).locations.grids] == [16, 4, 1, 1, 1]


def test_batch_norms_are_synchronized_in_every_part() -> None:
    config = replace(SMALL, batch_norm="synchronized", neck="pan", neck_norm="batch", head_norm="batch")
    detector = build(config, 2)
    norms, backbone_norms = (
        [type(layer) for layer in module.modules() if hasattr(layer, "running_mean")]
        for module in (detector, detector.backbone)
    )
    assert set(norms) == {torch.nn.SyncBatchNorm}
    assert len(norms) > len(backbone_norms)


def test_no_quality() -> None:
    detector = build(replace(SMALL, quality="none"), 2)
    assert detector(detector.prepare([image(64, 64)])).quality is None


@pytest.mark.parametrize(
    "change",
    [
        {"locations": "torchvision"},
        {"neck": "pan", "backbone": "efficientnet_lite0", "batch_norm": "frozen"},
        {"neck": "bifpn", "neck_norm": "batch", "backbone": "timm:convnext_atto"},
        {"quality": "none"},
    ],
)
def test_forward_needs_no_values_on_the_host(change: dict[str, Any]) -> None:
    """On the meta device, operations that would synchronize with a GPU (.item(), nonzero, boolean masks) fail."""
    detector = build(replace(SMALL, **change), 2).to("meta")
    outputs = detector(torch.empty(2, 3, 64, 96, device="meta"))
    assert outputs.logits.shape == (2, 96 + 24 + 6 + 2 + 1, 2)


def test_corner_grid_by_hand() -> None:
    """There is no offset of half a cell."""
    locations = make_locations([(2, 3), (1, 2)], [8, 16], mode="corner")
    assert locations.xy.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8], [0, 0], [16, 0]]
    assert locations.ranges[0].tolist() == [0, 64]


def test_torchvision_grid_by_hand() -> None:
    """Two cells of stride 16 on 24 pixels are ⌊24/2⌋ pixels apart, and ranges exclude their upper end."""
    locations = make_locations([(2, 3), (1, 2)], [8, 16], mode="torchvision")
    assert locations.xy.tolist()[6:] == [[0, 0], [12, 0]]
    assert locations.strides.tolist()[6:] == [16, 16]
    upper_end = locations.ranges[0, 1].item()
    assert upper_end < 64
    assert upper_end == pytest.approx(64)
    assert locations.ranges[-1].tolist() == [64, math.inf]


@pytest.mark.parametrize(
    ("height", "width", "last"),
    # The last locations of P3 and of P7. P7 has a single row, since 96 < 128, which begins at 0.
    [(96, 160, [[152, 88], [80, 0]])],
)
def test_torchvision_grid_equals_the_centers_of_torchvisions_anchors(
    height: int, width: int, last: list[list[float]]
) -> None:
    """For an image whose size is no multiple of the strides of P6 and P7."""
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.image_list import ImageList

    detector = build(replace(SMALL, locations="torchvision"), 1)
    locations = detector(torch.zeros(1, 3, height, width)).locations
    generator = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((1.0,),) * 5)
    maps = [torch.zeros(1, 1, grid.height, grid.width) for grid in locations.grids]
    [anchors] = generator(ImageList(torch.zeros(1, 3, height, width), [(height, width)]), maps)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert torch.equal(locations.xy, centers)
    ends = [locations.counts[0] - 1, sum(locations.counts) - 1]
    assert locations.xy[ends].tolist() == last


@pytest.mark.parametrize("mode", ["center", "corner", "torchvision"])
def test_the_locations_are_those_of_the_configuration(mode: Any) -> None:
    detector = build(replace(SMALL, locations=mode, levels=(4, 5), regression_ranges=(50.0,)), 1)
    locations = detector(torch.zeros(1, 3, 64, 96)).locations
    expected = make_locations([(4, 6), (2, 3)], [16, 32], mode=mode, ends=[50.0])
    assert torch.equal(locations.xy, expected.xy)
    assert torch.equal(locations.ranges, expected.ranges)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"levels": (3, 5)}, "levels"),
        ({"levels": ()}, "levels"),
        ({"levels": (3, 4, 5, 6, 7, 8)}, "levels"),
        ({"channels": 12}, "channels"),
        ({"tower_channels": 0}, "tower_channels"),
        ({"tower_depth": -1}, "tower_depth"),
        ({"center_sampling_radius": -0.5}, "center_sampling_radius"),
        ({"frozen_stages": -1}, "frozen_stages"),
        ({"backbone": "resnet19"}, "backbone"),
    ],
)
def test_invalid_configurations(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}: "):
        replace(SMALL, **change)  # type: ignore[arg-type]
