"""What jitter does to an image's colors."""

from random import Random

import pytest
import torch

from pipeline.loading.transforms import generator
from pipeline.loading.transforms.color import jitter


def test_jitter_changes_what_its_strength_names() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=generator(0))
    nothing, still = jitter(image, (0.0, 0.0, 0.0, 0.0), Random(0)), torch.tensor([0.299, 0.587, 0.114])
    assert torch.equal(nothing, image)
    brighter = jitter(image // 2, (0.4, 0.0, 0.0, 0.0), Random(0)).float()
    factor = (brighter.sum() / (image // 2).sum()).item()
    assert 0.6 <= factor <= 1.4
    assert factor != pytest.approx(1, abs=0.02)
    torch.testing.assert_close(brighter, image // 2 * factor, atol=2, rtol=0)
    pale = jitter(image, (0.0, 0.0, 1.0, 0.0), Random(0))
    gray, before = (torch.einsum("chw,c->hw", each.float(), still).mean() for each in (pale, image))
    assert gray == pytest.approx(before, abs=6)
    turned = jitter(image, (0.0, 0.0, 0.0, 0.5), Random(0))
    torch.testing.assert_close(turned.amax(dim=0), image.amax(dim=0), atol=3, rtol=0)  # value, of HSV
    assert not torch.equal(turned, image)
