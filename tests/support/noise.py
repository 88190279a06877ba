"""Pictures of random pixels."""

from typing import Any

import numpy as np


def noise(width: int, height: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """RGB [height, width, 3], the same in every run, which Pillow's `effect_noise` is not: it can't be seeded."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
