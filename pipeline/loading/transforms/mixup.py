"""Two images in one: mixup (Zhang et al., 1710.09412) as detectors use it (Zhang et al., 1902.04103)."""

from dataclasses import replace
from random import Random

import PIL.Image
import torch

from fcos.config import InputSize
from pipeline.loading.transforms.sample import Sample, picture, pixels, resize

# Of the Beta distribution that weights come from: 0.5 ± 0.12. Every object counts in full here, not by its weight as in
# 1902.04103 (1.5), so each has to be seen.
_ALPHA = 8.0


def weight_of(random: Random) -> float:
    """How much of the second image is seen, in 0…1."""
    return random.betavariate(_ALPHA, _ALPHA)


def mixup(sample: Sample, other: Sample, weight: float) -> Sample:
    """The first image with another shining through, fitted into it at its upper left: the objects of both.

    Where the other ends, the first is seen alone.
    """
    fit = InputSize(sample.size, letterbox=True)
    other = resize(other, fit.scale(*other.size))
    height, width = other.size
    image = sample.image.clone()
    covered = picture(image[:, :height, :width])
    image[:, :height, :width] = pixels(PIL.Image.blend(covered, picture(other.image), weight))
    boxes, labels = torch.cat([sample.boxes, other.boxes]), torch.cat([sample.labels, other.labels])
    return replace(sample, image=image, boxes=boxes, labels=labels)
