"""From an image as stored to an image as training sees it: resized and changed at random.

Compose, then change. Each image is cut (crop, zoom) and resized, in this order, so that few pixels are worked on;
mosaic and mixup put several together; the colors of what they give are changed; it is warped (affine and perspective
in one) and flipped. The primitives are torchvision's transforms v2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from fcos.config import InputSize
from pipeline.loading.transforms.color import jitter
from pipeline.loading.transforms.geometry import affine, aside, corners_of, crop_with_object, warp, zoom_in
from pipeline.loading.transforms.mixup import mixup, weight_of
from pipeline.loading.transforms.mosaic import center_of, mosaic
from pipeline.loading.transforms.rng import SampleRng, generator
from pipeline.loading.transforms.sample import FILL, Sample, flip, inside, resize
from pipeline.params import AugmentParams

__all__ = ["FILL", "Augmentation", "Sample", "flip", "generator", "resize"]

Read = Callable[[int], Sample]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to an image on its way to a training batch."""

    params: AugmentParams
    input_size: InputSize
    multi_scale: tuple[int, int] | None
    epochs: int
    seed: int

    def __call__(self, read: Read, count: int, epoch: int, index: int) -> Sample:
        """The index-th image as this epoch sees it; its randomness comes from (seed, epoch, its name) alone.

        It may lose all of its objects.

        Args:
            read: gives an image as stored, with its objects; mosaic and mixup ask for others too.
            count: how many there are.
        """
        sample = read(index)
        rng = SampleRng((self.seed, epoch, sample.name))
        others = Others(read, count, index) if epoch < self.epochs - self.params.close_mosaic_epochs else None
        sample = self._composed(sample, others, rng)
        if random := rng.maybe("jitter", self.params.color_jitter):
            sample = replace(sample, image=jitter(sample.image, self.params.color_jitter_strength, random))
        sample = self._warped(sample, rng)
        return inside(flip(sample) if rng.maybe("flip", self.params.flip) else sample)

    def _composed(self, sample: Sample, others: "Others | None", rng: SampleRng) -> Sample:
        """Cut, resized, and put together with other images where there are any to take."""
        target = self._target(rng)
        if others and (random := rng.maybe("mosaic", self.params.mosaic)):
            sample = self._mosaic(sample, others, target, rng, random)
        else:
            sample = resize(*self._part(sample, target, rng))
        if others and (random := rng.maybe("mixup", self.params.mixup)):
            other, _ = self._part(others.one(random), target, rng.child("mixup"))
            sample = mixup(sample, other, weight_of(random))
        return sample

    def _mosaic(self, sample: Sample, others: "Others", target: InputSize, rng: SampleRng, random: Random) -> Sample:
        """With three others, of the size that the image alone would have, or of the canvas."""
        parts = [self._part(sample, target, rng)]
        parts += [self._part(other, target, rng.child("mosaic", i)) for i, other in enumerate(others.three(random))]
        random.shuffle(parts)
        size = target.canvas or target.resized(*sample.size)
        return replace(mosaic(parts, size, center_of(size, random), random), name=sample.name)

    def _target(self, rng: SampleRng) -> InputSize:
        """What images are resized to, where the shorter side is drawn at random too."""
        if self.multi_scale is None:
            return self.input_size
        shorter = rng.stream("multi_scale").randint(*self.multi_scale)
        return replace(self.input_size, size=(shorter, self.input_size.size[1]))

    def _part(self, sample: Sample, target: InputSize, rng: SampleRng) -> tuple[Sample, float]:
        """What crop and zoom leave of an image as stored, and the factor that it is to be resized by."""
        if random := rng.maybe("crop", self.params.crop):
            sample = crop_with_object(sample, self.params.min_crop, random)
        random = rng.stream("scale")
        zoom = math.exp(random.uniform(*map(math.log, self.params.scale)))
        if zoom > 1:
            sample = zoom_in(sample, zoom, random)
        return sample, target.scale(*sample.size) * min(zoom, 1)

    def _warped(self, sample: Sample, rng: SampleRng) -> Sample:
        corners = unmoved = corners_of(sample.size)
        if random := rng.maybe("perspective", self.params.perspective):
            corners = aside(corners, self.params.perspective_distortion, random)
        if random := rng.maybe("affine", self.params.affine):
            corners = affine(
                corners,
                size=sample.size,
                degrees=self.params.degrees,
                shear=self.params.shear,
                translate=self.params.translate,
                random=random,
            )
        return sample if corners is unmoved else warp(sample, corners)


@dataclass(frozen=True)
class Others:
    """The images that one may be put together with."""

    read: Read
    count: int  # of all images
    index: int  # of that one

    def one(self, random: Random) -> Sample:
        """Another image, or the same where there is but one."""
        step = random.randint(1, self.count - 1) if self.count > 1 else 0
        return self.read((self.index + step) % self.count)

    def three(self, random: Random) -> list[Sample]:
        """Three images, all different where there are as many."""
        enough = self.count > 3
        steps = random.sample(range(1, self.count), 3) if enough else random.choices(range(self.count), k=3)
        return [self.read((self.index + step) % self.count) for step in steps]
