"""Painted images cropped, zoomed, turned and seen from aside: boxes go with their pixels."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.loading.transforms import FILL, Sample
from pipeline.loading.transforms.geometry import affine, aside, corners_of, crop_with_object, warp, zoom_in
from tests.support.painted_scenes import Boxes, painted, scene, scenes, seeds


def test_a_quarter_turn_by_hand() -> None:
    original = scene(40, 40, [[4, 6, 20, 30], [25, 1, 39, 11]])
    turned = warp(original, corners_of((40, 40)).roll(-1, dims=0))
    # Pillow cuts off what isn't whole instead of rounding it.
    torch.testing.assert_close(turned.image, original.image.rot90(-1, dims=(1, 2)), atol=1, rtol=0)
    expected = torch.tensor([[10.0, 4.0, 34.0, 20.0], [29.0, 25.0, 39.0, 39.0]])
    torch.testing.assert_close(turned.boxes, expected, atol=1e-3, rtol=0)


def test_what_comes_into_view_is_filled() -> None:
    moved = warp(scene(30, 40, [[0, 0, 30, 30]]), corners_of((30, 40)) + torch.tensor([20.0, 0.0]))
    assert (moved.image[:, :, :20] == torch.tensor(FILL).view(3, 1, 1)).all()
    torch.testing.assert_close(moved.boxes, torch.tensor([[20.0, 0.0, 40.0, 30.0]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("left", "kept"), [(14.0, [[0, 5, 6, 15]]), (16.0, [])])
def test_what_is_moved_out_of_view_goes(left: float, kept: Boxes) -> None:
    """Of a width of 20, 6 or 4 stay."""
    moved = warp(scene(20, 40, [[0, 5, 20, 15]]), corners_of((20, 40)) - torch.tensor([left, 0.0]))
    torch.testing.assert_close(moved.boxes, torch.tensor(kept).view(-1, 4).float(), atol=1e-3, rtol=0)


def test_affine_by_hand() -> None:
    corners = corners_of((30, 40))
    still = affine(corners, size=(30, 40), degrees=0, shear=0, translate=0, random=Random(0))
    torch.testing.assert_close(still, corners)
    # Lengths stay under a turn, and so does the area under a shear.
    turned = affine(corners, size=(30, 40), degrees=90, shear=0, translate=0, random=Random(0))
    torch.testing.assert_close(torch.linalg.vector_norm(turned[1] - turned[0]), torch.tensor(40.0))
    torch.testing.assert_close(turned.mean(dim=0), corners.mean(dim=0))
    moved = affine(corners, size=(30, 40), degrees=0, shear=0, translate=0.5, random=Random(1)) - corners
    torch.testing.assert_close(moved, moved[:1].expand(4, 2))
    assert (moved[0].abs() <= torch.tensor([20.0, 15.0])).all()


@pytest.mark.parametrize("distortion", [0.3, 1.0])
def test_every_look_from_aside_is_one(distortion: float) -> None:
    """Corners that pass each other would turn the image inside out."""
    original = scene(60, 80, [[0, 0, 80, 60]])
    for seed in range(60):
        corners = aside(corners_of((60, 80)), distortion, Random(seed))
        moved = (corners - corners_of((60, 80))).abs() / torch.tensor([80, 60])
        assert moved.max() <= distortion / 2
        found = warp(original, corners)
        around = [*corners.amin(dim=0).tolist(), *corners.amax(dim=0).tolist()]
        torch.testing.assert_close(found.boxes, torch.tensor([around]), atol=0.05, rtol=0)
        assert painted(found.image, 0) == pytest.approx(around, abs=4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(scenes(), st.floats(0.05, 1), seeds)
def test_a_crop_keeps_an_object_whole(sample: Sample, least: float, seed: int) -> None:
    found = crop_with_object(sample, least, Random(seed))
    sizes = {int(label): (box[2:] - box[:2]).tolist() for label, box in zip(sample.labels, sample.boxes, strict=True)}
    after = zip(found.labels.tolist(), found.boxes, strict=True)
    assert any((box[2:] - box[:2]).tolist() == sizes[label] for label, box in after)
    assert all(part >= least * side - 1e-3 for part, side in zip(found.size, sample.size, strict=True))
    assert all(painted(found.image, int(i)) == box for i, box in zip(found.labels, found.boxes.tolist(), strict=True))


def test_a_crop_of_an_image_without_objects() -> None:
    for seed in range(20):
        found = crop_with_object(scene(50, 70, []), 0.3, Random(seed))
        assert 15 <= found.size[0] <= 50
        assert 21 <= found.size[1] <= 70


@settings(max_examples=30, deadline=None, derandomize=True)
@given(scenes(), st.floats(1, 4), seeds)
def test_a_zoom_shows_a_part_of_that_size(sample: Sample, zoom: float, seed: int) -> None:
    found = zoom_in(sample, zoom, Random(seed))
    assert found.size == tuple(round(side / zoom) for side in sample.size)
    assert all(painted(found.image, int(i)) == box for i, box in zip(found.labels, found.boxes.tolist(), strict=True))
