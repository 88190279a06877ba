"""Resizing images against torchvision's."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from fcos.ops.images import resized


def test_resizing_keeps_the_type_and_an_equal_size_keeps_the_image() -> None:
    image = torch.zeros(3, 61, 83, dtype=torch.uint8)
    assert resized(image, 61, 83) is image
    assert resized(image, 30, 40).shape == (3, 30, 40)
    assert resized(image, 30, 40).dtype == torch.uint8


@pytest.mark.parametrize("layout", ["decoded", "window", "channels first"])
def test_resizing_equals_torchvisions(layout: str) -> None:
    pixels = torch.randint(0, 256, (60, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = pixels.permute(2, 0, 1)
    image = {"decoded": image, "window": image[:, 3:50, 5:70], "channels first": image.contiguous()}[layout]
    for size in ([31, 47], [90, 120], [1, 200]):
        expected = functional.resize(image, size, antialias=True)
        result = resized(image, *size)
        assert torch.equal(result, expected)
        assert result.stride() == expected.stride()
