"""Resizing, flipping and cropping of painted images, compared with values worked out by hand."""

from dataclasses import replace

import pytest
import torch

from pipeline.loading.transforms import Sample, flip, resize, torch_generator
from pipeline.loading.transforms.sample import crop
from tests.support.painted_scenes import Boxes, painted_box, samples_equal, scene


def test_resize_scales_image_and_boxes() -> None:
    result = resize(scene(100, 200, [[20, 10, 60, 90]]), 0.5)
    assert result.image.shape == (3, 50, 100)
    assert result.boxes.tolist() == [[10, 5, 30, 45]]


def test_boxes_are_scaled_to_the_rounded_sides() -> None:
    result = resize(scene(101, 33, [[0, 0, 33, 101]]), 0.3)
    assert result.image.shape == (3, 30, 10)
    torch.testing.assert_close(result.boxes, torch.tensor([[0.0, 0.0, 10.0, 30.0]]))


def test_a_crop_is_resized_like_a_whole_image() -> None:
    whole = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8, generator=torch_generator(0)).permute(2, 0, 1)
    cut = crop(Sample(whole, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), ""), 3, 5, 30, 50)
    copy = replace(cut, image=cut.image.contiguous())
    assert torch.equal(resize(cut, 1.7).image, resize(copy, 1.7).image)


def test_flip_moves_boxes_with_the_pixels_and_is_its_own_inverse() -> None:
    original = scene(40, 61, [[3, 5, 20, 30], [50, 1, 61, 9]])
    mirrored = flip(original)
    assert mirrored.boxes.tolist() == [painted_box(mirrored.image, 0), painted_box(mirrored.image, 1)]
    assert mirrored.boxes[0].tolist() == [41, 5, 58, 30]
    assert samples_equal(flip(mirrored), original)


@pytest.mark.parametrize(
    ("box", "kept"),
    [
        ([10, 10, 40, 30], [[2, 2, 30, 22]]),  # cut at the right
        ([0, 10, 12, 30], [[0, 2, 4, 22]]),  # a third is visible
        ([0, 10, 10, 30], []),  # a fifth is visible
        ([37, 10, 39, 20], [[29, 2, 30, 12]]),  # half is visible, a pixel wide
        ([50, 50, 60, 60], []),
    ],
)
def test_a_crop_keeps_visible_objects_and_drops_the_others(box: list[int], kept: Boxes) -> None:
    result = crop(scene(60, 60, [box]), top=8, left=8, height=30, width=30)
    assert result.image.shape == (3, 30, 30)
    assert result.boxes.tolist() == kept
    assert len(result.labels) == len(kept)
    if kept:
        assert result.boxes.tolist() == [painted_box(result.image, 0)]


def test_an_object_narrower_than_a_pixel_stays_only_if_it_is_whole() -> None:
    tiny = replace(scene(60, 60, [[10, 10, 40, 40]]), boxes=torch.tensor([[20.3, 20.0, 20.7, 30.0]]))
    torch.testing.assert_close(crop(tiny, 8, 8, 40, 40).boxes, torch.tensor([[12.3, 12.0, 12.7, 22.0]]))
    assert not len(crop(replace(tiny, boxes=torch.tensor([[47.3, 20.0, 49.3, 30.0]])), 8, 8, 40, 40).boxes)
