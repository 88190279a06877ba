"""Mixup of two images (Zhang et al., 1710.09412), as used for detection (Zhang et al., 1902.04103)."""

from dataclasses import replace
from random import Random

import torch

from fcos.config import InputSize
from pipeline.loading.transforms.opencv import from_array, opencv, to_array
from pipeline.loading.transforms.sample import Sample, resize

# Parameter of the Beta distribution of weights: 0.5 ± 0.12. 1902.04103 uses 1.5 and weights each object's loss; here
# every object counts in full, so both images must be clearly visible.
_ALPHA = 8.0


def random_weight(rng: Random) -> float:
    """The weight of the second image, in 0…1."""
    return rng.betavariate(_ALPHA, _ALPHA)


def mixup(sample: Sample, other: Sample, weight: float) -> Sample:
    """Blends a second image, resized to fit, into the upper left of the first; keeps the objects of both.

    Pixels that the second image does not cover stay unchanged.
    """
    fit = InputSize(sample.size, letterbox=True)
    other = resize(other, fit.scale(*other.size))
    height, width = other.size
    image = sample.image.clone()
    covered, over = to_array(image[:, :height, :width]), to_array(other.image)
    image[:, :height, :width] = from_array(opencv().addWeighted(covered, 1 - weight, over, weight, 0))
    boxes, labels = torch.cat([sample.boxes, other.boxes]), torch.cat([sample.labels, other.labels])
    return replace(sample, image=image, boxes=boxes, labels=labels)
