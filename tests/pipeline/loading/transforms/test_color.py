"""Color jitter changes brightness, contrast, saturation and hue by their strengths."""

from random import Random

import pytest
import torch

from pipeline.loading.transforms import torch_generator
from pipeline.loading.transforms.color import random_color_jitter


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
