"""Crops, zooms, affine and perspective transforms of painted images: boxes move with their pixels."""

from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from pipeline.loading.transforms import FILL, Sample
from pipeline.loading.transforms.geometry import (
    image_corners,
    random_affine,
    random_crop_with_object,
    random_perspective,
    random_zoom_in,
    warp,
)
from tests.support.painted_scenes import Boxes, painted_box, scene, scenes, seeds


def test_a_rotation_by_90_degrees() -> None:
    original = scene(40, 40, [[4, 6, 20, 30], [25, 1, 39, 11]])
    turned = warp(original, image_corners((40, 40)).roll(-1, dims=0))
    assert torch.equal(turned.image, original.image.rot90(-1, dims=(1, 2)))
    expected = torch.tensor([[10.0, 4.0, 34.0, 20.0], [29.0, 25.0, 39.0, 39.0]])
    torch.testing.assert_close(turned.boxes, expected, atol=1e-3, rtol=0)


def test_an_image_is_warped_as_torchvision_does_it() -> None:
    """On a smooth image, since OpenCV rounds positions to 1/32 pixel."""
    y, x = torch.meshgrid(torch.arange(60.0), torch.arange(80.0), indexing="ij")
    image = torch.stack([2 * x + 40, 3 * y, x + 2 * y]).to(torch.uint8)
    corners = torch.tensor([[6.0, 3.0], [75.0, -4.0], [83.0, 55.0], [-2.0, 62.0]])
    warped = warp(Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), "image"), corners).image.float()
    expected = functional.perspective(
        image, image_corners((60, 80)).tolist(), corners.tolist(), InterpolationMode.BILINEAR, fill=list(FILL)
    ).float()
    difference = (warped - expected).abs().amax(dim=0)
    assert difference[8:52, 10:70].max() <= 2
    assert (difference > 2).float().mean() < 0.04  # torchvision doesn't blend edge pixels with the fill


def test_pixels_without_image_content_are_filled() -> None:
    moved = warp(scene(30, 40, [[0, 0, 30, 30]]), image_corners((30, 40)) + torch.tensor([20.0, 0.0]))
    assert (moved.image[:, :, :20] == torch.tensor(FILL).view(3, 1, 1)).all()
    torch.testing.assert_close(moved.boxes, torch.tensor([[20.0, 0.0, 40.0, 30.0]]), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("left", "kept"), [(14.0, [[0, 5, 6, 15]]), (16.0, [])])
def test_an_object_moved_out_of_the_image_is_dropped(left: float, kept: Boxes) -> None:
    """Of an object 20 pixels wide, 6 or 4 pixels stay inside."""
    moved = warp(scene(20, 40, [[0, 5, 20, 15]]), image_corners((20, 40)) - torch.tensor([left, 0.0]))
    torch.testing.assert_close(moved.boxes, torch.tensor(kept).view(-1, 4).float(), atol=1e-3, rtol=0)


def test_affine_keeps_lengths_and_the_center() -> None:
    corners = image_corners((30, 40))
    unchanged = random_affine(corners, size=(30, 40), degrees=0, shear=0, translate=0, rng=Random(0))
    torch.testing.assert_close(unchanged, corners)
    # A rotation keeps lengths.
    rotated = random_affine(corners, size=(30, 40), degrees=90, shear=0, translate=0, rng=Random(0))
    torch.testing.assert_close(torch.linalg.vector_norm(rotated[1] - rotated[0]), torch.tensor(40.0))
    torch.testing.assert_close(rotated.mean(dim=0), corners.mean(dim=0))
    moved = random_affine(corners, size=(30, 40), degrees=0, shear=0, translate=0.5, rng=Random(1)) - corners
    torch.testing.assert_close(moved, moved[:1].expand(4, 2))
    assert (moved[0].abs() <= torch.tensor([20.0, 15.0])).all()


@pytest.mark.parametrize("distortion", [0.3, 1.0])
def test_a_random_perspective_is_always_a_valid_view(distortion: float) -> None:
    """Crossing corners would turn the image inside out."""
    original = scene(60, 80, [[0, 0, 80, 60]])
    for seed in range(60):
        corners = random_perspective(image_corners((60, 80)), distortion, Random(seed))
        moved = (corners - image_corners((60, 80))).abs() / torch.tensor([80, 60])
        assert moved.max() <= distortion / 2
        result = warp(original, corners)
        hull = [*corners.amin(dim=0).tolist(), *corners.amax(dim=0).tolist()]
        torch.testing.assert_close(result.boxes, torch.tensor([hull]), atol=0.05, rtol=0)
        assert painted_box(result.image, 0) == pytest.approx(hull, abs=4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(scenes(), st.floats(0.05, 1), seeds)
def test_a_crop_keeps_an_object_whole(sample: Sample, min_fraction: float, seed: int) -> None:
    result = random_crop_with_object(sample, min_fraction, Random(seed))
    sizes = {int(label): (box[2:] - box[:2]).tolist() for label, box in zip(sample.labels, sample.boxes, strict=True)}
    after = zip(result.labels.tolist(), result.boxes, strict=True)
    assert any((box[2:] - box[:2]).tolist() == sizes[label] for label, box in after)
    assert all(part >= min_fraction * side - 1e-3 for part, side in zip(result.size, sample.size, strict=True))
    assert all(
        painted_box(result.image, int(i)) == box for i, box in zip(result.labels, result.boxes.tolist(), strict=True)
    )


def test_an_image_without_objects_is_cropped_anywhere() -> None:
    for seed in range(20):
        result = random_crop_with_object(scene(50, 70, []), 0.3, Random(seed))
        assert 15 <= result.size[0] <= 50
        assert 21 <= result.size[1] <= 70


@settings(max_examples=30, deadline=None, derandomize=True)
@given(scenes(), st.floats(1, 4), seeds)
def test_zooming_in_crops_to_the_inverse_of_the_zoom(sample: Sample, zoom: float, seed: int) -> None:
    result = random_zoom_in(sample, zoom, Random(seed))
    assert result.size == tuple(round(side / zoom) for side in sample.size)
    assert all(
        painted_box(result.image, int(i)) == box for i, box in zip(result.labels, result.boxes.tolist(), strict=True)
    )
