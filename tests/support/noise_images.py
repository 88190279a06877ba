"""A small data set of noise images, and training data and batches made from it."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from fcos.config import InputSize
from fcos.training.batch import Batch
from pipeline import params
from pipeline.data.annotations import Annotation, AnnotationSet, Category, Image
from pipeline.loading.batches import Batches
from pipeline.loading.dataset import TrainingData
from pipeline.loading.transforms import Augmentation
from tests.support.noise import noise
from tests.support.projects import PROJECT

SIZE = InputSize((32, 48))


def write_noise_images(folder: Path, shapes: list[tuple[int, int]], empty: tuple[int, ...] = ()) -> AnnotationSet:
    """Writes noise images of the given (height, width) shapes; each has an object, except at the indices in `empty`."""
    folder.mkdir(exist_ok=True)
    for index, (height, width) in enumerate(shapes):
        PIL.Image.fromarray(noise(width, height, seed=index)).save(folder / f"{index}.png")
    annotations = tuple(
        Annotation(index, index, 5, (4.0, 4.0, 12.0 + index % 3, 20.0), 250.0)
        for index in range(len(shapes))
        if index not in empty
    )
    images = tuple(Image(index, f"{index}.png", width, height) for index, (height, width) in enumerate(shapes))
    return AnnotationSet((Category(5, "thing"),), images, annotations)


def training_data(folder: Path, split: AnnotationSet | None = None, **changed: Any) -> TrainingData:
    """Training data with flips and random zooms. By default it has ten images of three shapes."""
    split = split or write_noise_images(folder, [(48, 64), (64, 48), (40, 80), *[(48, 64)] * 7])
    defaults = params.load(PROJECT / "params.yaml").train.augment
    augmentation = Augmentation(
        params=replace(defaults, **({"flip": 0.5, "scale": (0.8, 1.2)} | changed)),
        input_size=SIZE,
        multi_scale=None,
        epochs=8,
        seed=3,
    )
    return TrainingData(split, folder, augmentation=augmentation, include_difficult=False, include_empty=True)


def batches(data: TrainingData, **changed: Any) -> Batches:
    return Batches(**({"data": data, "batch_size": 4, "workers": 0, "seed": 3} | changed))


def batches_equal(actual: list[list[Batch]], expected: list[list[Batch]]) -> bool:
    """Whether two lists of steps have the same bytes in the same order."""
    assert [len(parts) for parts in actual] == [len(parts) for parts in expected]
    pairs = [pair for steps in zip(actual, expected, strict=True) for pair in zip(*steps, strict=True)]
    return all(
        list(a.names) == list(b.names)
        and (a.objects, a.annotated) == (b.objects, b.annotated)
        and torch.equal(a.pixels, b.pixels)
        and torch.equal(a.sizes, b.sizes)
        and all(torch.equal(getattr(a.targets, f.name), getattr(b.targets, f.name)) for f in fields(a.targets))
        for a, b in pairs
    )
