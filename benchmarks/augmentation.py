"""Mosaic, affine transform, color jitter and flip at 640 pixels, compared with albumentations, on one core.

Both sides start from the same decoded photographs and apply all four to each image. albumentations is no dependency;
the measurement is left out where it is not installed.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import count as count_from
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.harness import Measurement, Side, Unavailable
from benchmarks.loader import photographs, single_thread
from fcos.config import InputSize
from pipeline import recipes
from pipeline.data.boxes import box_tensor
from pipeline.data.images import read_image
from pipeline.loading.transforms import Augmentation, Sample

_SIDE, _IMAGES = 640, 16  # pixels; images that a call augments
_DEGREES, _SHEAR, _TRANSLATE = 10.0, 5.0, 0.1
_JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue


def mosaic_to_flip() -> tuple[Side, Side]:
    """Augmented images on both sides.

    Raises:
        Unavailable: albumentations is not installed.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import would look for a newer version on the network
    try:
        import albumentations
    except ImportError:
        raise Unavailable("albumentations is not installed") from None
    samples = read_samples(200)
    return _on_one_core(ours(samples)), _on_one_core(theirs(albumentations, samples))


def read_samples(count: int) -> list[Sample]:
    """Decoded photographs with three boxes each."""
    with TemporaryDirectory() as folder:
        split = photographs(Path(folder), count)
        objects = split.by_image()
        return [
            Sample(
                read_image(Path(folder) / image.file_name),
                box_tensor(objects[image.id]),
                torch.zeros(len(objects[image.id]), dtype=torch.int64),
                image.file_name,
            )
            for image in split.images
        ]


def _on_one_core(augment: Callable[[int], object]) -> Side:
    """A call that augments some images on one core."""
    numbers = count_from()

    def side() -> None:
        cv2.setNumThreads(1)
        with single_thread():
            for _ in range(_IMAGES):
                augment(next(numbers))

    return side


def ours(samples: list[Sample]) -> Callable[[int], Sample]:
    """Augments the image of a number with the pipeline's transforms."""
    params = replace(
        recipes.defaults().train.augment,
        flip=0.5, scale=(1.0, 1.0), mosaic=1.0, close_mosaic_epochs=0, affine=1.0, degrees=_DEGREES, shear=_SHEAR,
        translate=_TRANSLATE, color_jitter=1.0, color_jitter_strength=_JITTER,
    )  # fmt: skip
    size = InputSize((_SIDE, _SIDE), letterbox=True)
    augmentation = Augmentation(params=params, input_size=size, multi_scale=None, epochs=10**6, seed=0)

    def augment(number: int) -> Sample:
        epoch, index = divmod(number, len(samples))
        return augmentation(samples.__getitem__, len(samples), epoch, index)

    return augment


def theirs(albumentations: Any, samples: list[Sample]) -> Callable[[int], object]:
    """Augments the image of a number with albumentations."""
    random = Random(0)
    brightness, contrast, saturation, hue = _JITTER
    compose = albumentations.Compose(
        [
            albumentations.Mosaic(
                target_size=(_SIDE, _SIDE), cell_shape=(_SIDE, _SIDE), center_range=(0.25, 0.75), fit_mode="contain",
                fill=114, p=1,
            ),
            albumentations.Affine(
                rotate=(-_DEGREES, _DEGREES), shear=(-_SHEAR, _SHEAR), translate_percent=(-_TRANSLATE, _TRANSLATE),
                fill=114, p=1,
            ),
            albumentations.ColorJitter(
                brightness=brightness, contrast=contrast, saturation=saturation, hue=hue, p=1
            ),
            albumentations.HorizontalFlip(p=0.5),
        ],
        bbox_params=albumentations.BboxParams("pascal_voc", label_fields=["labels"], clip=True),
    )  # fmt: skip
    items = [
        {
            "image": np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy()),
            "bboxes": sample.boxes.numpy(),
            "labels": sample.labels.numpy(),
        }
        for sample in samples
    ]

    def augment(number: int) -> object:
        return compose(**items[number % len(items)], mosaic_metadata=random.sample(items, 3))

    return augment


MEASUREMENTS = [
    Measurement("mosaic, affine, color jitter and flip at 640 px, one core, albumentations", 1.2, mosaic_to_flip)
]
