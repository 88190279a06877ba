"""Resizing and random augmentation: from a stored image to the image that training uses.

Each image is first cropped and zoomed, then resized, so that the other transforms work on few pixels. Mosaic and mixup
combine several images. The result is color-jittered, warped (affine and perspective in a single interpolation) and
flipped. Mixup, color jitter and warps are OpenCV's; torchvision's transforms v2 warp the boxes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from fcos.config import InputSize
from pipeline.loading.transforms.color import random_color_jitter
from pipeline.loading.transforms.geometry import (
    image_corners,
    random_affine,
    random_crop_with_object,
    random_perspective,
    random_zoom_in,
    warp,
)
from pipeline.loading.transforms.mixup import mixup, random_weight
from pipeline.loading.transforms.mosaic import mosaic, random_center
from pipeline.loading.transforms.rng import SampleRng, torch_generator
from pipeline.loading.transforms.sample import FILL, Sample, clip_boxes, flip, resize
from pipeline.params import AugmentParams

__all__ = ["FILL", "Augmentation", "Sample", "flip", "resize", "torch_generator"]

ReadSample = Callable[[int], Sample]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """The transforms between a stored image and a training batch."""

    params: AugmentParams
    input_size: InputSize
    multi_scale: tuple[int, int] | None
    epochs: int
    seed: int

    def __call__(self, read: ReadSample, count: int, epoch: int, index: int, repeat: int = 0) -> Sample:
        """The augmented image. Its random draws depend only on the seed, the epoch, the image's name and `repeat`.

        The result may have no objects, even if the stored image has some.

        Args:
            read: returns the image with the given index as stored, with its objects. Mosaic and mixup read others too.
            count: number of images.
            epoch: counted from 0.
            index: of the image, in 0…count−1.
            repeat: how often the epoch has had the image before.
        """
        sample = read(index)
        rng = SampleRng((self.seed, epoch, sample.name, *([repeat] if repeat else [])))
        combine = epoch < self.epochs - self.params.close_mosaic_epochs
        sample = self._compose(sample, OtherImages(read, count, index) if combine else None, rng)
        if draws := rng.maybe("jitter", self.params.color_jitter):
            sample = replace(sample, image=random_color_jitter(sample.image, self.params.color_jitter_strength, draws))
        sample = self._warp(sample, rng)
        return clip_boxes(flip(sample) if rng.maybe("flip", self.params.flip) else sample)

    def _compose(self, sample: Sample, others: "OtherImages | None", rng: SampleRng) -> Sample:
        """Crops, zooms and resizes the image, and combines it with others unless `others` is None."""
        target = self._target_size(rng)
        if others and (draws := rng.maybe("mosaic", self.params.mosaic)):
            sample = self._mosaic(sample, others, target, rng, draws)
        else:
            sample = resize(*self._crop_and_zoom(sample, target, rng))
        if others and (draws := rng.maybe("mixup", self.params.mixup)):
            other, _ = self._crop_and_zoom(others.sample_one(draws), target, rng.child("mixup"))
            sample = mixup(sample, other, random_weight(draws))
        return sample

    def _mosaic(
        self, sample: Sample, others: "OtherImages", target: InputSize, rng: SampleRng, draws: Random
    ) -> Sample:
        """Combines the image with three others; the mosaic has the canvas's size, or else the resized image's."""
        parts = [self._crop_and_zoom(sample, target, rng)]
        for number, other in enumerate(others.sample_three(draws)):
            parts.append(self._crop_and_zoom(other, target, rng.child("mosaic", number)))
        draws.shuffle(parts)
        size = target.canvas or target.resized(*sample.size)
        return replace(mosaic(parts, size, random_center(size, draws), draws), name=sample.name)

    def _target_size(self, rng: SampleRng) -> InputSize:
        """The size that the image is resized to; with multi_scale, its shorter side is random."""
        if self.multi_scale is None:
            return self.input_size
        shorter = rng.stream("multi_scale").randint(*self.multi_scale)
        return replace(self.input_size, size=(shorter, self.input_size.size[1]))

    def _crop_and_zoom(self, sample: Sample, target: InputSize, rng: SampleRng) -> tuple[Sample, float]:
        """Crops a stored image; returns it with the factor that it must be resized by."""
        if draws := rng.maybe("crop", self.params.crop):
            sample = random_crop_with_object(sample, self.params.min_crop, draws)
        draws = rng.stream("scale")
        zoom = math.exp(draws.uniform(*map(math.log, self.params.scale)))
        if zoom > 1:
            sample = random_zoom_in(sample, zoom, draws)
        return sample, target.scale(*sample.size) * min(zoom, 1)

    def _warp(self, sample: Sample, rng: SampleRng) -> Sample:
        """Applies perspective and affine transforms together, so that the image is interpolated once."""
        corners = original = image_corners(sample.size)
        if draws := rng.maybe("perspective", self.params.perspective):
            corners = random_perspective(corners, self.params.perspective_distortion, draws)
        if draws := rng.maybe("affine", self.params.affine):
            corners = random_affine(
                corners,
                size=sample.size,
                degrees=self.params.degrees,
                shear=self.params.shear,
                translate=self.params.translate,
                rng=draws,
            )
        return sample if corners is original else warp(sample, corners)


@dataclass(frozen=True)
class OtherImages:
    """The images that an image can be combined with."""

    read: ReadSample
    count: int  # of all images
    index: int  # of the image that they are combined with

    def sample_one(self, rng: Random) -> Sample:
        """A random image other than the one at `index`, or that one if there is no other."""
        step = rng.randint(1, self.count - 1) if self.count > 1 else 0
        return self.read((self.index + step) % self.count)

    def sample_three(self, rng: Random) -> list[Sample]:
        """Three random images: different ones other than the one at `index`, if there are enough."""
        steps = rng.sample(range(1, self.count), 3) if self.count > 3 else rng.choices(range(self.count), k=3)
        return [self.read((self.index + step) % self.count) for step in steps]
