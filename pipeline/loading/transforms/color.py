"""Random changes of color."""

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pipeline.loading.transforms.opencv import Pixels, from_array, opencv, to_array


def random_color_jitter(image: Tensor, strength: tuple[float, float, float, float], rng: Random) -> Tensor:
    """Changes brightness, contrast, saturation and hue in random order, as torchvision's ColorJitter does.

    Args:
        image: uint8 [3, H, W].
        strength: the largest change of each. Brightness, contrast and saturation are multiplied by a factor in
            1 ± strength; the hue is shifted by up to ± strength of the color circle. A strength of 0 skips the change.

    Returns:
        uint8 [3, H, W]; without any change, it may share the image's memory.
    """
    *factors, hue = strength
    changes: list[tuple[Callable[[Pixels, float], Pixels], float]] = [
        (_adjust_brightness, 1 + rng.uniform(-factors[0], factors[0])),
        (_adjust_contrast, 1 + rng.uniform(-factors[1], factors[1])),
        (_adjust_saturation, 1 + rng.uniform(-factors[2], factors[2])),
        (_shift_hue, rng.uniform(-hue, hue)),
    ]
    active = [change for change, largest in zip(changes, strength, strict=True) if largest]
    rng.shuffle(active)
    pixels = to_array(image)
    for adjust, amount in active:
        pixels = adjust(pixels, amount)
    return from_array(pixels)


def _adjust_brightness(pixels: Pixels, factor: float) -> Pixels:
    return _map_values(pixels, _VALUES * factor)


def _adjust_contrast(pixels: Pixels, factor: float) -> Pixels:
    """Moves the values away from the mean luminance, or toward it."""
    mean = round(_luminance(pixels).mean())
    return _map_values(pixels, mean + (_VALUES - mean) * factor)


def _adjust_saturation(pixels: Pixels, factor: float) -> Pixels:
    """Moves the channels of each pixel away from its luminance, or toward it."""
    cv2 = opencv()
    gray = cv2.cvtColor(_luminance(pixels), cv2.COLOR_GRAY2RGB)
    result: Pixels = cv2.addWeighted(pixels, factor, gray, 1 - factor, 0)
    return result


def _shift_hue(pixels: Pixels, shift: float) -> Pixels:
    """Turns the color circle, of which 1 is the whole."""
    cv2 = opencv()
    hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)  # hues from 0 to 255
    hsv[..., 0] += np.uint8(round(shift * 256) % 256)
    result: Pixels = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)
    return result


_VALUES = np.arange(256)


def _map_values(pixels: Pixels, values: NDArray[np.floating[Any]]) -> Pixels:
    """Replaces each of the 256 values."""
    result: Pixels = opencv().LUT(pixels, values.round().clip(0, 255).astype(np.uint8))
    return result


def _luminance(pixels: Pixels) -> Pixels:
    cv2 = opencv()
    gray: Pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return gray
