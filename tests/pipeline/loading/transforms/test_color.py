"""Color jitter changes brightness, contrast, saturation and hue by their strengths."""

from random import Random

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from pipeline.data.images import from_pil, to_pil
from pipeline.loading.transforms import color, torch_generator
from pipeline.loading.transforms.color import random_color_jitter
from pipeline.loading.transforms.opencv import from_array, to_array


def test_each_strength_changes_one_property() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch_generator(0))
    assert torch.equal(random_color_jitter(image, (0.0, 0.0, 0.0, 0.0), Random(0)), image)
    brighter = random_color_jitter(image // 2, (0.4, 0.0, 0.0, 0.0), Random(0)).float()
    factor = (brighter.sum() / (image // 2).sum()).item()
    assert 0.6 <= factor <= 1.4
    assert factor != pytest.approx(1, abs=0.02)
    torch.testing.assert_close(brighter, image // 2 * factor, atol=2, rtol=0)
    luminance = torch.tensor([0.299, 0.587, 0.114])
    saturated = random_color_jitter(image, (0.0, 0.0, 1.0, 0.0), Random(0))
    after, before = (torch.einsum("chw,c->hw", pixels.float(), luminance).mean() for pixels in (saturated, image))
    assert after == pytest.approx(before, abs=6)
    shifted = random_color_jitter(image, (0.0, 0.0, 0.0, 0.5), Random(0))
    torch.testing.assert_close(shifted.amax(dim=0), image.amax(dim=0), atol=3, rtol=0)  # the value of HSV
    assert not torch.equal(shifted, image)


def photograph() -> Tensor:
    """Smooth colors of all hues."""
    generator = torch_generator(1)
    small = torch.randint(0, 256, (1, 3, 6, 8), generator=generator).float()
    return torch.nn.functional.interpolate(small, (60, 80), mode="bilinear")[0].to(torch.uint8)


@pytest.mark.parametrize("factor", [0.6, 0.93, 1.4])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_factors_mean_the_same_as_in_torchvision(name: str, factor: float) -> None:
    image = photograph()
    changed = from_array(getattr(color, f"_adjust_{name}")(to_array(image), factor))
    expected = from_pil(getattr(functional, f"adjust_{name}")(to_pil(image), factor))
    torch.testing.assert_close(changed.int(), expected.int(), atol=2, rtol=0)


@pytest.mark.parametrize("shift", [-0.3, -0.02, 0.1, 0.5])
def test_hues_are_shifted_as_in_torchvision(shift: float) -> None:
    image = photograph()
    shifted = from_array(color._shift_hue(to_array(image), shift))
    difference = (shifted - 255 * functional.adjust_hue(image / 255, shift)).abs()
    # Hues are rounded to 1/256 of the circle before and after, three values of a channel each; so are saturations.
    assert difference.max() <= 10
    assert difference.mean() < 1
