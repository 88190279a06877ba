"""Random changes of color."""

from random import Random

from torch import Tensor
from torchvision.transforms.v2 import functional

from pipeline.data.images import from_pil, to_pil


def random_color_jitter(image: Tensor, strength: tuple[float, float, float, float], rng: Random) -> Tensor:
    """Changes brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter does.

    Args:
        image: uint8 [3, H, W].
        strength: the largest change of each. Brightness, contrast and saturation are multiplied by a factor in
            1 ± strength; the hue is shifted by up to ± strength of the color circle. A strength of 0 skips the change.
    """
    *factors, hue = strength
    changes = [
        (functional.adjust_brightness, 1 + rng.uniform(-factors[0], factors[0])),
        (functional.adjust_contrast, 1 + rng.uniform(-factors[1], factors[1])),
        (functional.adjust_saturation, 1 + rng.uniform(-factors[2], factors[2])),
        (functional.adjust_hue, rng.uniform(-hue, hue)),
    ]
    active = [change for change, largest in zip(changes, strength, strict=True) if largest]
    rng.shuffle(active)
    result = to_pil(image)
    for adjust, amount in active:
        result = adjust(result, amount)
    return from_pil(result)
