"""Colors changed at random."""

from random import Random

from torch import Tensor
from torchvision.transforms.v2 import functional

from pipeline.loading.transforms.sample import picture, pixels


def jitter(image: Tensor, strength: tuple[float, float, float, float], random: Random) -> Tensor:
    """Changes brightness, contrast, saturation and hue, in random order, as torchvision's ColorJitter does.

    Args:
        image: uint8 [3, H, W].
        strength: how far each is changed at most: factors from 1 − strength to 1 + strength, the hue by ± a share of
            the color circle. A strength of 0 costs nothing.
    """
    *shares, turn = strength
    changes = [
        (functional.adjust_brightness, 1 + random.uniform(-shares[0], shares[0])),
        (functional.adjust_contrast, 1 + random.uniform(-shares[1], shares[1])),
        (functional.adjust_saturation, 1 + random.uniform(-shares[2], shares[2])),
        (functional.adjust_hue, random.uniform(-turn, turn)),
    ]
    wanted = [change for change, most in zip(changes, strength, strict=True) if most]
    random.shuffle(wanted)
    changed = picture(image)
    for adjust, amount in wanted:
        changed = adjust(changed, amount)
    return pixels(changed)
